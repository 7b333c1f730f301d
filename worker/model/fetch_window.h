// The order in which the rows of one decode step post their selections: always that of their
// attentions, and never more than kMaxPendingSelects ahead of them. What has no free slot waits
// here with its query, so a row selects by the same query whatever the other rows do. What is a
// row's own is enqueued in the lane of that number (Backend::BeginLane), which the caller ends.
#pragma once

#include <array>
#include <span>

#include "worker/model/decode_row.h"

namespace tailor {

class FetchWindow {
 public:
  FetchWindow(Backend* backend, std::span<DecodeRow> rows) : backend_(backend), rows_(rows) {}

  // Rows `row` is to attend to in `layer`, by the query q [q_heads * head_dim] in device memory,
  // which stays until that attention. Calls come in the order of the attentions.
  void Want(int32_t row, int32_t layer, std::span<const float> q);
  // Posts while there are slots. A row whose post fails has failed.
  void PostAhead();
  // The attention of `row` in `layer`, between two calls of PostAhead. A row that has failed takes
  // what it posted before, unread: the others' answers come in the order of the posts.
  void Attend(int32_t row, int32_t layer, MatrixView<const float> q, MatrixView<float> out);

 private:
  struct Wanted {
    int32_t row = 0, layer = 0;
    std::span<const float> q;
    bool posted = false;
  };
  // Of each row the layer at hand, and the one predicted.
  static constexpr uint32_t kRoom = kMaxPosted * kMaxDecodeRows;
  Wanted& At(uint32_t number) { return wanted_[number % kRoom]; }

  Backend* const backend_;
  const std::span<DecodeRow> rows_;
  std::array<Wanted, kRoom> wanted_;
  // Numbers of Want's calls: [attended_, posted_) hold a slot, [posted_, end_) wait for one.
  uint32_t attended_ = 0, posted_ = 0, end_ = 0;
};

}  // namespace tailor
