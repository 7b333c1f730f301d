#include "worker/ops/cuda/step_recorder.h"

#include <cstdio>
#include <string>
#include <utility>

#include "common/cuda/kernel_launch.h"
#include "common/status.h"
#include "worker/ops/cuda/check_cuda.h"

namespace tailor::cuda {

absl::StatusOr<std::unique_ptr<StepRecorder>> StepRecorder::Make(DevicePool* pool,
                                                                 cudaStream_t stream,
                                                                 Graphs graphs) {
  TS_ASSIGN_OR_RETURN(StepArguments arguments, StepArguments::Make(pool));
  return std::unique_ptr<StepRecorder>(
      new StepRecorder(pool, stream, graphs, std::move(arguments)));
}

void StepRecorder::GiveUp(const absl::Status& why) {
  (void)cudaGetLastError();  // told here, no op's error
  std::fprintf(stderr, "CUDA backend: steps go on without graphs: %s\n",
               std::string(why.message()).c_str());
  graphs_on_ = Graphs::kOff;
}

void StepRecorder::Begin(int rows) {
  TS_CHECK(!in_step_);
  in_step_ = true;
  ++stats_.steps;
  if (graphs_on_ == Graphs::kOff) return;
  list_.Clear();
  rows_ = rows;
  lane_ = 0;
  const absl::Status begun = arguments_.Begin();
  if (!begun.ok()) return GiveUp(begun);
  recording_ = true;
}

void StepRecorder::End() {
  TS_CHECK(in_step_);
  in_step_ = false;
  if (!recording_) return;
  CheckCuda(arguments_.Enqueue(stream_));
  stats_.launches += static_cast<int64_t>(list_.size());
  if (list_.size() > 0) {
    const absl::Status enqueued = graphs_.Enqueue(rows_, list_, stream_, &stats_);
    if (!enqueued.ok()) {
      GiveUp(enqueued);
      EnqueueOneByOne();
    }
  }
  StopRecording();
}

void StepRecorder::BeginLane(int lane) {
  if (!recording_) return;
  lane_ = lane % kLanes;
  list_.BeginLane(lane_);
}

void StepRecorder::EndLanes() {
  if (!recording_) return;
  list_.EndLanes();
  lane_ = 0;
}

void StepRecorder::Add(const Launch& launch, LaunchArguments arguments) {
  if (recording_) return list_.Add(launch, arguments);
  (void)EnqueueLaunch(launch, arguments, stream_);
}

void StepRecorder::Flush() {
  if (!recording_) return;
  ++stats_.flushed;
  stats_.launches += static_cast<int64_t>(list_.size());
  CheckCuda(arguments_.Enqueue(stream_));
  EnqueueOneByOne();
  StopRecording();
}

void StepRecorder::EnqueueOneByOne() {
  for (size_t i = 0; i < list_.size(); ++i) {
    CheckCuda(EnqueueLaunch(list_.launch(i), list_.Arguments(i), stream_), "a recorded launch");
  }
}

void StepRecorder::StopRecording() {
  recording_ = false;
  for (std::byte* data : to_free_) pool_->Free(data);
  to_free_.clear();
}

const std::byte* StepRecorder::Put(std::span<const std::byte> bytes) {
  if (!recording_) return nullptr;
  const std::byte* const at = arguments_.Put(bytes);
  if (at == nullptr) Flush();
  return at;
}

void StepRecorder::Free(std::byte* data) {
  if (recording_) {
    to_free_.push_back(data);
  } else {
    pool_->Free(data);
  }
}

}  // namespace tailor::cuda
