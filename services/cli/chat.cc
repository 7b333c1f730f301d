// `tailor chat`: its flags.
#include <memory>

#include "services/cli/chat_loop.h"
#include "services/cli/command.h"
#include "services/exit_code.h"

namespace tailor {
namespace {

constexpr char kFooter[] = R"(
Examples:
  tailor chat                                     talk; /help shows what you can type
  tailor chat --document book.txt --ask "Who finds the letter?" --ask "And where?"
                                                  two answers, the book is read once
  tailor chat my-notes                            go on in the session my-notes, or start it
  tailor chat my-notes --ask "Summarize" -v       and show what the answer cost
  tailor chat --json --ask "2+2?" | jq .answer    for programs: one JSON object a line
  tailor chat --attention full --ask "..."        the uncompressed baseline

Text goes to stdout, all else to stderr. JSON keys: session, question, answer, finish_reason,
session_tokens, report{reused_tokens, prefilled_tokens, generated_tokens, queue_ms, prefill_ms,
time_to_first_token_ms, decode_ms, tokens_per_second, rows_fetched, bytes_fetched,
rows_fetched_per_token, bytes_fetched_per_token, checked_heads, captured_mass_mean,
captured_mass_worst, output_error_mean, budget_rows, bytes{quantized_codes, resident, store_rows,
store_index, sketch, row_cache}}.
Ctrl-C stops the answer; without one, the program (exit code 130).)";

// Flags that become proto fields only when given.
struct SamplingFlags {
  std::optional<float> temperature, top_p, min_p;
  std::optional<float> repetition_penalty, presence_penalty, frequency_penalty;
  std::optional<int> top_k;
  std::optional<uint64_t> seed;
};

struct ChatFlags {
  ChatOptions options;
  SamplingFlags sampling;
  std::string attention;
};

void AddSamplingFlags(CLI::App& command, SamplingFlags& flags) {
  command.add_option("--temperature", flags.temperature, "0: always the likeliest token; 0 to 100")
      ->envname("TAILOR_TEMPERATURE");
  command.add_option("--top-k", flags.top_k, "Draw from the k likeliest; 0: all")
      ->envname("TAILOR_TOP_K");
  command.add_option("--top-p", flags.top_p, "Draw from the likeliest with this share; to 1")
      ->envname("TAILOR_TOP_P");
  command.add_option("--min-p", flags.min_p, "Drop tokens below this share of the likeliest")
      ->envname("TAILOR_MIN_P");
  command.add_option("--repetition-penalty", flags.repetition_penalty, "Above 1: repeat less")
      ->envname("TAILOR_REPETITION_PENALTY");
  command.add_option("--presence-penalty", flags.presence_penalty, "-2 to 2")
      ->envname("TAILOR_PRESENCE_PENALTY");
  command.add_option("--frequency-penalty", flags.frequency_penalty, "-2 to 2")
      ->envname("TAILOR_FREQUENCY_PENALTY");
  command.add_option("--seed", flags.seed, "The same seed draws the same answer")
      ->envname("TAILOR_SEED");
}

void AddConversationFlags(CLI::App& command, ChatFlags& flags) {
  ChatOptions& options = flags.options;
  command
      .add_option("session", options.session, "A session to go on with, or to start by this name")
      ->envname("TAILOR_SESSION");
  command
      .add_option("--document", options.documents,
                  "A text file to talk about (repeatable; -: stdin)")
      ->allow_extra_args(false)
      ->envname("TAILOR_DOCUMENT");
  command.add_option("--ask", options.questions, "Ask this, print the answer and end (repeatable)")
      ->allow_extra_args(false)
      ->envname("TAILOR_ASK");
  command.add_option("--system", options.system, "Instructions for a new session")
      ->envname("TAILOR_SYSTEM");
  command.add_option("--attention", flags.attention, "hybrid, or full (the uncompressed baseline)")
      ->check(CLI::IsMember({"hybrid", "full"}))
      ->envname("TAILOR_ATTENTION");
  command.add_option("--max-tokens", options.max_tokens, "Longest answer, in tokens")
      ->check(CLI::Range(1, 1 << 24))
      ->envname("TAILOR_MAX_TOKENS");
  command.add_option("--stop", options.stop, "End the answer before this text (repeatable)")
      ->allow_extra_args(false)
      ->envname("TAILOR_STOP");
  command.add_flag("-v,--verbose", options.verbose, "Show what each answer cost")
      ->envname("TAILOR_VERBOSE");
  command.add_flag("--json", options.json, "One JSON object for each answer")
      ->envname("TAILOR_JSON");
}

void Resolve(ChatFlags& flags) {
  v1::SamplingParams& params = flags.options.sampling;
  const SamplingFlags& given = flags.sampling;
  if (given.temperature) params.set_temperature(*given.temperature);
  if (given.top_k) params.set_top_k(*given.top_k);
  if (given.top_p) params.set_top_p(*given.top_p);
  if (given.min_p) params.set_min_p(*given.min_p);
  if (given.repetition_penalty) params.set_repetition_penalty(*given.repetition_penalty);
  if (given.presence_penalty) params.set_presence_penalty(*given.presence_penalty);
  if (given.frequency_penalty) params.set_frequency_penalty(*given.frequency_penalty);
  if (given.seed) params.set_seed(*given.seed);
  if (flags.attention == "hybrid") flags.options.attention = v1::ATTENTION_MODE_HYBRID;
  if (flags.attention == "full") flags.options.attention = v1::ATTENTION_MODE_FULL;
}

int RunChat(ChatFlags& flags, const GlobalOptions& globals) {
  Resolve(flags);
  Interrupts interrupts;  // before gRPC makes threads
  GatewayClient client(ServerAddress(globals), globals.api_key);
  return ChatLoop(flags.options, &client, &interrupts).Run();
}

}  // namespace

void AddChatCommand(CLI::App& app, const GlobalOptions& globals, RunFn* run) {
  CLI::App* command = app.add_subcommand("chat", "Talk, or ask about documents");
  command->footer(kFooter);
  const auto flags = std::make_shared<ChatFlags>();
  AddConversationFlags(*command, *flags);
  AddSamplingFlags(*command, flags->sampling);
  command->callback(
      [run, flags, &globals] { *run = [flags, &globals] { return RunChat(*flags, globals); }; });
}

}  // namespace tailor
