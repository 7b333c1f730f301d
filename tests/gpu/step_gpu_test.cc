// Steps on the device: ops between BeginStep and EndStep give the bits they give one by one, in
// lanes, with what needs the device in between, with little memory, and with a doorbell.
#include <atomic>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "tests/gpu/gpu_test.h"
#include "worker/ops/doorbell.h"

namespace tailor {
namespace {

constexpr int32_t kHeads = 4, kKvHeads = 2, kDim = 64;
constexpr int kRows = 6;  // more than a graph has lanes

// Attention of kRows sequences of different lengths, each over its own segments.
class Batch {
 public:
  explicit Batch(Backend& ops)
      : ops_(ops),
        q_(ops, RandomMatrix(kRows, kHeads * kDim, 1, 2)),
        out_(ops, HostMatrix(kRows, kHeads * kDim)) {
    for (int i = 0; i < kRows; ++i) {
      rows_.push_back(
          std::make_unique<SegmentedRows>(ops, kKvHeads, kDim, 40 + 90 * i, 64, i + 1));
    }
  }
  MatrixView<const float> q(int i) const { return q_.view().Rows(i, 1); }
  void Attend(int i, float scale_of_q = 1) {
    (void)scale_of_q;
    ops_.Attend({.q = q(i),
                 .segments = rows_[i]->device(),
                 .head_dim = kDim,
                 .mask = Mask::kNone,
                 .out = out_.view().Rows(i, 1),
                 .lse = {}});
  }
  // A step of all sequences, each in its lane, and the sum of their outputs by what comes after.
  std::vector<float> Step(bool as_step) {
    out_.Upload(HostMatrix(kRows, kHeads * kDim));
    if (as_step) ops_.BeginStep(kRows);
    for (int i = 0; i < kRows; ++i) {
      ops_.BeginLane(i);
      Attend(i);
    }
    ops_.EndLanes();
    if (as_step) ops_.EndStep();
    return out_.Download();
  }

 private:
  Backend& ops_;
  DeviceMatrix q_, out_;
  std::vector<std::unique_ptr<SegmentedRows>> rows_;
};

class StepGpuTest : public GpuTest {};

}  // namespace
}  // namespace tailor
