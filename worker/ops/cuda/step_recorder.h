// Records a step's launches and enqueues them together, as a graph that is kept. Whoever needs the
// stream itself meanwhile (CudaStreamRef::Direct) ends the recording: what was recorded goes to the
// stream in order, one launch after the other, and the rest of the step follows at once. So every
// op may come in a step; some cost it its graph. docs/decisions/0008-graph-of-a-step.md.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/ops/cuda/step_arguments.h"
#include "worker/ops/cuda/step_graphs.h"

namespace tailor::cuda {

class StepRecorder final : public LaunchSink {
 public:
  enum class Graphs { kOn, kOff };  // off: nothing is ever recorded

  // `pool` and `stream` outlive it.
  static absl::StatusOr<std::unique_ptr<StepRecorder>> Make(DevicePool* pool, cudaStream_t stream,
                                                            Graphs graphs);

  // A step of `rows` rows. Steps do not nest (TS_CHECK).
  void Begin(int rows);
  void End();
  bool recording() const { return recording_; }

  // LaunchList's, where one is recorded. Lanes are few, since each has a scratch of its own: those
  // with the same remainder follow one another.
  static constexpr int kLanes = 4;
  void BeginLane(int lane);
  void EndLanes();
  void JoinNext() { list_.JoinNext(); }
  // Below kLanes; 0 outside lanes too. What ops side by side can't share comes once a lane.
  int lane() const { return recording_ ? lane_ : 0; }

  void Add(const Launch& launch, LaunchArguments arguments) override;
  void Flush() override;
  // Where the device will find `bytes` in this step; null: not here, since nothing is recorded (any
  // more).
  const std::byte* Put(std::span<const std::byte> bytes);
  // Gives memory back to the pool, once what was recorded comes before its next owner in the
  // stream.
  void Free(std::byte* data);

  const StepStats& stats() const { return stats_; }

 private:
  StepRecorder(DevicePool* pool, cudaStream_t stream, Graphs graphs, StepArguments arguments)
      : pool_(pool), stream_(stream), graphs_on_(graphs), arguments_(std::move(arguments)) {}
  void EnqueueOneByOne();
  void StopRecording();
  // A driver that refuses our graphs is no reason to stop: steps go on without.
  void GiveUp(const absl::Status& why);

  DevicePool* pool_;
  cudaStream_t stream_;
  Graphs graphs_on_;
  StepArguments arguments_;
  StepGraphs graphs_;
  LaunchList list_;
  int rows_ = 0, lane_ = 0;
  bool in_step_ = false, recording_ = false;
  std::vector<std::byte*> to_free_;
  StepStats stats_;
};

}  // namespace tailor::cuda
