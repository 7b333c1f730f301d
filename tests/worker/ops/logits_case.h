// Rows of logits to reduce, with what is asked of them: what the tests of ReduceLogits on any
// backend share.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/worker/ops/op_test.h"
#include "worker/ops/logits.h"

namespace tailor {

struct LogitsCase {
  HostMatrix logits;
  std::vector<std::vector<LogitAdjustment>> adjustments;  // [rows]
  std::vector<LogitQuery> queries;                        // [rows], of these adjustments

  LogitsCase(HostMatrix of, const LogitQuery& query)
      : logits(std::move(of)), adjustments(logits.rows), queries(logits.rows, query) {}
  void Adjust(int64_t row, std::vector<LogitAdjustment> with) {
    adjustments[row] = std::move(with);
    queries[row].adjustments = adjustments[row];
  }
  // Adjusts about one token in `every`, the row's best among them.
  void AdjustAtRandom(int64_t row, int every, uint64_t seed) {
    std::mt19937_64 random(seed);
    const auto x = logits.row(row);
    const auto best = std::max_element(x.begin(), x.end()) - x.begin();
    std::vector<LogitAdjustment> with;
    for (TokenId token = 0; token < logits.cols; ++token) {
      if (token != best && random() % every != 0) continue;
      with.push_back({.token = token,
                      .repetition = 1 + static_cast<float>(random() % 10) / 20,
                      .subtract = static_cast<float>(random() % 20) / 10 - 0.9f});
    }
    Adjust(row, std::move(with));
  }
};

// The answers are full of something else before: what an op leaves out shows.
inline std::vector<LogitReduction> Reduce(Backend& ops, const LogitsCase& c) {
  const DeviceMatrix logits(ops, c.logits);
  const LogitReduction poison = {.candidates = std::vector<LogitCandidate>(7, {-1, NAN, NAN}),
                                 .max_logit = NAN,
                                 .sum = NAN,
                                 .mass = NAN};
  std::vector<LogitReduction> out(c.queries.size(), poison);
  ops.ReduceLogits(logits.view(), c.queries, out);
  EXPECT_EQ(logits.Download().RowBits(0), c.logits.RowBits(0)) << "the logits were written";
  return out;
}

inline std::string BitsOf(const LogitReduction& r) {
  std::string text =
      absl::StrCat("max ", std::bit_cast<uint32_t>(r.max_logit + 0.0f), " sum ",
                   std::bit_cast<uint64_t>(r.sum), " mass ", std::bit_cast<uint64_t>(r.mass));
  for (const LogitCandidate& c : r.candidates) {
    absl::StrAppend(&text, "; ", c.token, " ", std::bit_cast<uint32_t>(c.value), " ",
                    std::bit_cast<uint32_t>(c.logit));
  }
  return text;
}

// Sums of `vocab` positive terms: the reference rounds once a term and addition; the op's terms are
// off by 2^-46 twice (a piece's and the piece's factor), and its chains have fewer than 100 +
// vocab / kLogitPiece additions.
inline double SumTolerance(int64_t vocab) {
  return 2 * 0x1p-46 + 2 * (static_cast<double>(vocab) + 100) * 0x1p-53;
}

inline std::vector<LogitsCase> RandomLogitsCases() {
  std::vector<LogitsCase> cases;
  for (const int64_t vocab : {1, 31, 2047, 2048, 2049, 49152, 128256}) {
    for (const int64_t rows : {1, 3}) {
      LogitsCase c(RandomMatrix(rows, vocab, 17 * vocab + rows, 4), {.candidates = 1});
      for (int64_t r = 0; r < rows; ++r) c.queries[r].mass = r == 1;
      cases.push_back(c);
      for (int64_t r = 0; r < rows; ++r) {
        c.queries[r] = {.adjustments = {},
                        .temperature = 0.7f + 0.3f * static_cast<float>(r),  // 0.7, 1, 1.3
                        .candidates = static_cast<int32_t>(256 - 100 * r),
                        .mass = r < 2};
        c.AdjustAtRandom(r, r == 1 ? 1000 : 5, vocab + r);
      }
      cases.push_back(c);
      c.queries[rows - 1].candidates = rows == 1 ? kMaxLogitCandidates : 0;
      cases.push_back(std::move(c));
    }
  }
  for (LogitsCase& c : cases) {  // spans of a copied case lead to the case it was copied from
    for (size_t r = 0; r < c.queries.size(); ++r) c.queries[r].adjustments = c.adjustments[r];
  }
  return cases;
}

}  // namespace tailor
