#include "core/cli.h"

#include <cstdio>
#include <cstdlib>
#include <new>

#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "core/stop.h"
#include "testing.h"

namespace ctxc {
namespace {

CliSpec train_spec() {
  return {.program = "ctxc-train",
          .summary = "Trains a compressor.",
          .usage = "ctxc-train CONFIG [key=value…]",
          .options = {{"resume", "[DIR]", "go on where a run stopped"},
                      {"limit", "N", "at most N examples"},
                      {"methods", "LIST", "what to compare"},
                      {"overwrite", "", "throw away what the folder holds"}},
          .max_positional = 1,
          .overrides = true};
}

Cli parse(std::vector<const char*> arguments, const CliSpec& spec = train_spec()) {
  arguments.insert(arguments.begin(), "program");
  return Cli(spec, static_cast<int>(arguments.size()), arguments.data());
}

Error parse_error(std::vector<const char*> arguments, const CliSpec& spec = train_spec()) {
  try {
    parse(std::move(arguments), spec);
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "no error";
  return Error(ErrorKind::kInternal, "");
}

struct Answer {
  bool done;
  std::string out;
};
Answer answer(std::vector<const char*> arguments, const CliSpec& spec = train_spec()) {
  ::testing::internal::CaptureStdout();
  const bool done = parse(std::move(arguments), spec).done();
  std::fflush(stdout);
  return {done, ::testing::internal::GetCapturedStdout()};
}

TEST(Cli, ReadsOptionsPositionalsAndOverrides) {
  const Cli cli = parse(
      {"a.yaml", "train.lr=3e-4", "--limit", "-1", "data.train=[a,b]", "--methods=full, none", "--json"});
  EXPECT_FALSE(cli.done());
  EXPECT_EQ(cli.positional(), std::vector<std::string>{"a.yaml"});
  EXPECT_EQ(cli.overrides(), (std::vector<std::string>{"train.lr=3e-4", "data.train=[a,b]"}));
  EXPECT_EQ(cli.get_int("limit", 7), -1);
  EXPECT_EQ(cli.get_list("methods"), (std::vector<std::string>{"full", "none"}));
  EXPECT_TRUE(cli.json());
  EXPECT_FALSE(cli.has("resume"));
  EXPECT_EQ(cli.get("resume", "nothing"), "nothing");
  EXPECT_EQ(cli.help(), std::nullopt);
}

TEST(Cli, AbsentOptionsGiveTheirFallbacks) {
  const Cli cli = parse({"a.yaml"});
  EXPECT_EQ(cli.get_int("limit", 7), 7);
  EXPECT_TRUE(cli.get_list("methods").empty());
  EXPECT_EQ(cli.get("limit"), "");
}

TEST(Cli, AnOptionalValueMayBeLeftOut) {
  EXPECT_EQ(parse({"--resume", "runs/x"}).get("resume"), "runs/x");
  EXPECT_EQ(parse({"--resume=runs/x"}).get("resume"), "runs/x");
  EXPECT_TRUE(parse({"a.yaml", "--resume"}).has("resume"));
  EXPECT_EQ(parse({"a.yaml", "--resume"}).get("resume", "fallback"), "");
  const Cli before_override = parse({"a.yaml", "--resume", "train.lr=1"});
  EXPECT_EQ(before_override.get("resume"), "");
  EXPECT_EQ(before_override.overrides(), std::vector<std::string>{"train.lr=1"});
  EXPECT_TRUE(parse({"a.yaml", "--resume", "--overwrite"}).has("overwrite"));
}

TEST(Cli, DashIsAValueAndAnArgumentAndPathsAreNoOverrides) {
  EXPECT_EQ(parse({"--methods", "-"}).get("methods"), "-");
  EXPECT_EQ(parse({"-"}).positional(), std::vector<std::string>{"-"});
  EXPECT_EQ(parse({"runs/a=b/config.yaml"}).positional(), std::vector<std::string>{"runs/a=b/config.yaml"});
  EXPECT_EQ(parse({"--", "--limit"}).positional(), std::vector<std::string>{"--limit"});
}

TEST(Cli, WithoutOverridesAnEqualsSignIsOrdinary) {
  CliSpec spec = train_spec();
  spec.overrides = false;
  EXPECT_EQ(parse({"a=b"}, spec).positional(), std::vector<std::string>{"a=b"});
}

TEST(Cli, UnknownOptionsNameTheNearest) {
  const Error error = parse_error({"a.yaml", "--resum", "x"});
  EXPECT_EQ(error.kind(), ErrorKind::kUsage);
  EXPECT_STREQ(error.what(), "ctxc-train: unknown option (found '--resum')");
  EXPECT_EQ(error.hint(), "did you mean '--resume'?");
  EXPECT_EQ(parse_error({"-x"}).hint(), "see ctxc-train --help");
  EXPECT_EQ(parse_error({"--entirely-else=3"}).hint(), "see ctxc-train --help");
}

TEST(Cli, MissingSurplusAndRepeatedValuesAreErrors) {
  EXPECT_STREQ(parse_error({"--limit"}).what(),
               "ctxc-train: --limit has no value (found nothing, expected N)");
  EXPECT_STREQ(parse_error({"--limit", "--json"}).what(),
               "ctxc-train: --limit has no value (found '--json', expected N)");
  EXPECT_STREQ(parse_error({"--limit=1", "--limit=2"}).what(),
               "ctxc-train: --limit is given twice (found '1' and '2')");
  EXPECT_STREQ(parse_error({"--overwrite=false"}).what(),
               "ctxc-train: --overwrite takes no value (found 'false')");
  EXPECT_EQ(parse_error({"--overwrite=perhaps"}).kind(), ErrorKind::kUsage);
  EXPECT_STREQ(parse_error({"a.yaml", "b.yaml"}).what(),
               "ctxc-train: surplus argument (found 'b.yaml', expected ctxc-train CONFIG [key=value…])");
  CliSpec strict = train_spec();
  strict.min_positional = 1;
  EXPECT_STREQ(parse_error({}, strict).what(),
               "ctxc-train: an argument is missing (expected ctxc-train CONFIG [key=value…])");
  EXPECT_NO_THROW(parse({"--help", "train.lr"}, strict));
}

TEST(Cli, ValuesOfTheWrongFormAreErrors) {
  EXPECT_THROW(parse({"--limit=ten"}).get_int("limit", 0), Error);
  EXPECT_THROW(parse({"--limit=10x"}).get_int("limit", 0), Error);
  EXPECT_THROW(parse({"--limit=99999999999999999999"}).get_int("limit", 0), Error);
  EXPECT_THROW(parse({"--methods=full,,none"}).get_list("methods"), Error);
  EXPECT_EQ(parse({"--limit=5"}).require("limit"), "5");
  EXPECT_THROW(parse({}).require("limit"), Error);
  EXPECT_THROW(parse({}).has("undeclared"), Error);
}

TEST(Cli, HelpListsWhatTheProgramTakes) {
  const Answer help = answer({"--help"});
  EXPECT_TRUE(help.done);
  for (const char* part :
       {"Trains a compressor.", "usage: ctxc-train CONFIG [key=value…]", "--resume [DIR]", "--limit N",
        "--print-config", "--completion SHELL", "throw away what the folder holds"})
    EXPECT_NE(help.out.find(part), std::string::npos) << part << "\n" << help.out;
  EXPECT_EQ(answer({"-h"}).out, help.out);
  const Cli about_a_key = parse({"--help", "train.lr"});
  EXPECT_FALSE(about_a_key.done());
  EXPECT_EQ(about_a_key.help(), "train.lr");
}

TEST(Cli, VersionSaysMoreWhenVerbose) {
  add_version_line([] { return "threads: 3"; });
  const Answer plain = answer({"--version"}), verbose = answer({"--version", "--verbose"});
  EXPECT_TRUE(plain.done && verbose.done);
  EXPECT_TRUE(plain.out.starts_with("ctxc 0."));
  EXPECT_EQ(plain.out.find("compiler"), std::string::npos);
  for (const char* part : {"compiler: ", "build type: ", "LibTorch: 2.", "threads: 3\n"})
    EXPECT_NE(verbose.out.find(part), std::string::npos) << part;
  set_log_level(LogLevel::kNormal);
}

TEST(Cli, ListsKinds) {
  add_list_kind("colours", [] { return NamesAndHelp{{"red", "warm"}, {"blue", "cold"}}; });
  EXPECT_EQ(answer({"--list", "colours"}).out, "red   warm\nblue  cold\n");
  EXPECT_EQ(answer({"--list", "colours", "--json"}).out,
            "{\n  \"red\": \"warm\",\n  \"blue\": \"cold\"\n}\n");
  const Error error = parse_error({"--list", "colors"});
  EXPECT_EQ(error.kind(), ErrorKind::kUsage);
  EXPECT_EQ(error.hint(), "did you mean 'colours'?");
}

TEST(Cli, QuietSilencesTheLog) {
  const Cli cli = parse({"--quiet", "a.yaml"});
  ::testing::internal::CaptureStderr();
  log_info("unheard");
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
  set_log_level(LogLevel::kNormal);
}

Subcommands eval_program(std::string& called, bool with_otherwise) {
  Subcommands program("ctxc-eval", "Evaluates.");
  program.add("score",
              {.summary = "The metric alone.",
               .usage = "ctxc-eval score --gold FILE",
               .options = {{"gold", "FILE", "answers"}}},
              [&called](const Cli& cli) {
                called = "score " + cli.get("gold");
                return 11;
              });
  program.add("report", {.summary = "A page.", .usage = "ctxc-eval report DIR...", .max_positional = 100},
              [&called](const Cli& cli) {
                called = "report " + std::to_string(cli.positional().size());
                return 12;
              });
  if (with_otherwise)
    program.otherwise({.usage = "ctxc-eval CONFIG [key=value…]", .max_positional = 1, .overrides = true},
                      [&called](const Cli& cli) {
                        called = "otherwise " + cli.positional().at(0);
                        return 13;
                      });
  return program;
}

int run(const Subcommands& program, std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), "program");
  return program.run(static_cast<int>(arguments.size()), arguments.data());
}

TEST(Subcommands, Dispatch) {
  std::string called;
  const Subcommands program = eval_program(called, true);
  EXPECT_EQ(run(program, {"score", "--gold", "x"}), 11);
  EXPECT_EQ(called, "score x");
  EXPECT_EQ(run(program, {"--json", "report", "a", "b"}), 12);
  EXPECT_EQ(called, "report 2");
  EXPECT_EQ(run(program, {"c.yaml", "eval.limit=3"}), 13);
  EXPECT_EQ(called, "otherwise c.yaml");
}

TEST(Subcommands, HelpListsThemAndEachHasItsOwn) {
  std::string called;
  ::testing::internal::CaptureStdout();
  EXPECT_EQ(run(eval_program(called, true), {"--help"}), 0);
  EXPECT_EQ(run(eval_program(called, true), {"score", "--help"}), 0);
  std::fflush(stdout);
  const std::string out = ::testing::internal::GetCapturedStdout();
  EXPECT_EQ(called, "");
  for (const char* part :
       {"commands (ctxc-eval COMMAND --help tells more):\n  score                   The metric alone.\n",
        "usage: ctxc-eval CONFIG", "usage: ctxc-eval score --gold FILE\n", "--gold FILE"})
    EXPECT_NE(out.find(part), std::string::npos) << part << "\n" << out;
}

TEST(Subcommands, UnknownAndMissingCommandsAreErrors) {
  std::string called;
  const Subcommands program = eval_program(called, false);
  try {
    run(program, {"scroe"});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    EXPECT_STREQ(error.what(), "ctxc-eval: unknown command (found 'scroe', expected one of: score, report)");
    EXPECT_EQ(error.hint(), "did you mean 'score'?");
  }
  EXPECT_THROW(run(program, {}), Error);
  EXPECT_THROW(run(program, {"score", "--glod", "x"}), Error);
}

struct Ending {
  int code;
  std::string err;
};
Ending end_of(const std::function<int()>& body) {
  ::testing::internal::CaptureStderr();
  const int code = run_main(body);
  return {code, ::testing::internal::GetCapturedStderr()};
}

TEST(RunMain, MapsExceptionsToExitCodes) {
  EXPECT_EQ(end_of([] { return 0; }).code, 0);
  const Ending usage =
      end_of([]() -> int { throw Error(ErrorKind::kUsage, "a.yaml:1:2: wrong", "mend it"); });
  EXPECT_EQ(usage.code, 2);
  EXPECT_EQ(usage.err, "error: a.yaml:1:2: wrong\nhint: mend it\n");
  EXPECT_EQ(end_of([]() -> int { throw Stopped{15}; }).code, 143);
  EXPECT_EQ(end_of([]() -> int { throw Stopped{2}; }).code, 130);
  EXPECT_EQ(end_of([]() -> int { throw std::bad_alloc(); }).code, 4);
  const Ending torch = end_of([]() -> int {
    throw std::runtime_error(
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.\nframe #0: x");
  });
  EXPECT_EQ(torch.code, 4);
  EXPECT_EQ(torch.err.find("frame #0"), std::string::npos);
  const Ending other = end_of([]() -> int { throw std::runtime_error("odd\nframe #0: x"); });
  EXPECT_EQ(other.code, 1);
  EXPECT_TRUE(other.err.starts_with("error: internal: odd\nhint: ")) << other.err;
}

TEST(RunMain, AFullDiskBehindStandardOutputIsSeen) {
  EXPECT_EXIT(
      {
        if (!std::freopen("/dev/full", "w", stdout)) std::abort();
        std::exit(run_main([] {
          std::puts("lost");
          return 0;
        }));
      },
      ::testing::ExitedWithCode(7), "standard output cannot be written");
}

/// Exit status of `shell -c script` on a completion script saved to a file; 127 if the shell is not
/// installed.
int try_shell(const std::string& shell, const std::string& script, const std::string& body) {
  testing::TempDir folder;
  const std::string file = folder / "completion";
  write_file_atomic(file, script + body);
  const std::string command = "command -v " + shell.substr(0, shell.find(' ')) +
                              " >/dev/null || exit 127; cd " + folder.str() + "; " + shell + " " +
                              file;  // an empty folder: file names would complete as well
  return WEXITSTATUS(std::system(command.c_str()));
}

CliSpec with_commands() {
  CliSpec spec = train_spec();
  spec.program = "ctxc-eval";
  CliSpec score = {.program = "ctxc-eval score",
                   .summary = "it's the metric: alone",
                   .usage = "",
                   .options = {{"gold", "FILE", "the [right] answers: a file"}}};
  spec.commands = {score};
  const auto common = common_options(spec);
  spec.options.insert(spec.options.begin(), common.begin(), common.end());
  return spec;
}

TEST(Completion, BashOffersOptionsAndCommands) {
  const std::string body =
      "COMP_WORDS=(ctxc-eval --res); COMP_CWORD=1; _ctxc_eval; [ \"${COMPREPLY[*]}\" = --resume ] || exit 3\n"
      "COMP_WORDS=(ctxc-eval sco); COMP_CWORD=1; _ctxc_eval; [ \"${COMPREPLY[*]}\" = score ] || exit 4\n"
      "COMP_WORDS=(ctxc-eval score --go); COMP_CWORD=2; _ctxc_eval; [ \"${COMPREPLY[*]}\" = --gold ] || exit "
      "5\n"
      "COMP_WORDS=(ctxc-eval score --res); COMP_CWORD=2; _ctxc_eval; [ -z \"${COMPREPLY[*]}\" ] || exit 6\n";
  EXPECT_EQ(try_shell("bash", completion_script(with_commands(), "bash"), body), 0);
}

TEST(Completion, ZshAndFishScriptsWorkWhereTheShellsAre) {
  const std::string zsh = completion_script(with_commands(), "zsh"),
                    fish = completion_script(with_commands(), "fish");
  EXPECT_NE(zsh.find("'--gold[the \\[right\\] answers\\: a file]:FILE:_files'"), std::string::npos) << zsh;
  EXPECT_NE(fish.find("complete -c ctxc-eval -n '__fish_seen_subcommand_from score' -l gold"),
            std::string::npos);
  EXPECT_NE(fish.find("-d 'it'\\''s the metric: alone'"), std::string::npos) << fish;
  const std::string fish_body =
      "test (complete -C 'ctxc-eval score --go' | cut -f 1) = --gold; or exit 3\n"
      "test (complete -C 'ctxc-eval sco' | cut -f 1) = score; or exit 4\n"
      "test (count (complete -C 'ctxc-eval score --resu')) = 0; or exit 5\n";
  const int zsh_status = try_shell("zsh -n", zsh, ""),
            fish_status = try_shell("fish --no-config", fish, fish_body);
  EXPECT_TRUE(zsh_status == 0 || zsh_status == 127) << zsh;
  EXPECT_TRUE(fish_status == 0 || fish_status == 127) << fish;
}

TEST(Completion, IsAskedForOnTheCommandLine) {
  EXPECT_NE(answer({"--completion", "bash"}).out.find("complete -o filenames -F _ctxc_train ctxc-train"),
            std::string::npos);
  EXPECT_EQ(parse_error({"--completion", "bsh"}).hint(), "did you mean 'bash'?");
}

}  // namespace
}  // namespace ctxc
