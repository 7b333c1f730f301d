// Why a policy is as it is: what `tailor calibrate` measured, kept in the policy file. Changes no
// token and is no part of the policy's fingerprint; it names the fingerprint that it was measured
// with, and a file where the two differ is refused.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/fingerprint.h"

namespace tailor {

struct CalibrationEvidence {
  static constexpr int kVersion = 1;

  struct Text {
    std::string name;    // of the file, without its folder
    Fingerprint sha256;  // of its bytes, as sha256sum prints it
  };
  // Against the full cache, teacher-forced (ALGORITHM §6), means over windows.
  struct Quality {
    double kl = 0;                   // nats a token
    std::optional<double> kl_error;  // standard error; none for one window
    double agreement = 0;            // of the most likely next token, 0 to 1
    double perplexity_ratio = 0;
    std::vector<std::optional<double>> recall;  // [layers], mean; none: quantized
  };
  // One configuration that the search tried, over the calibration windows.
  struct Tried {
    std::string step;           // what it changed: "channels 16"
    std::string configuration;  // LayerPolicy::Summary
    int64_t fetched_bytes = 0, device_bytes = 0;
    double kl = 0, perplexity_ratio = 0, recall = 0;  // recall: mean over sparse layers; 1: none
  };

  std::string tool;                         // version of the program
  std::string simd;                         // level it ran at
  Fingerprint policy;                       // what was measured
  std::vector<Text> texts, held_out_texts;  // no held_out_texts: the last window of each text
  int64_t context_tokens = 0, decode_tokens = 0, windows = 0;
  // Dense preference, ALGORITHM §1: its numbers, and each layer's score.
  int64_t last_queries = 0, max_quantized_layers = 0;
  double alpha = 0, score_threshold = 0;
  std::vector<double> scores;  // [layers]
  // The limits of the search: of the command line, or the default policy's bytes.
  std::optional<int64_t> max_device_bytes, max_fetched_bytes;
  std::optional<double> max_kl;
  int64_t fetched_bytes = 0;           // a token, of the policy
  int64_t device_bytes = 0;            // of a sequence of context_tokens
  Quality held_out, default_held_out;  // on text the search did not see
  std::vector<Tried> tried;            // in order; the first is the default policy
};

}  // namespace tailor
