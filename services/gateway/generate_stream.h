// One Generate call to a worker, read without ever blocking for long: a turn that waits must notice
// when its client has gone.
#pragma once

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <memory>

#include "tailor/v1/decoder.grpc.pb.h"

namespace tailor {

// Not thread-safe. The call is cancelled when the object goes before the call has ended.
class GenerateStream {
 public:
  GenerateStream(v1::DecoderService::Stub* stub, const v1::GenerateRequest& request);
  ~GenerateStream();
  GenerateStream(const GenerateStream&) = delete;
  GenerateStream& operator=(const GenerateStream&) = delete;

  enum class Next { kEvent, kNothingYet, kEnd };
  // Waits at most `patience` for the next event, which is in event() until the next call.
  Next Wait(std::chrono::milliseconds patience);
  const v1::GenerateEvent& event() const { return event_; }

  void TryCancel() { context_.TryCancel(); }
  // How the call ended. Only after kEnd; once.
  grpc::Status Finish();

 private:
  enum class Pending { kNothing, kStart, kRead };

  grpc::ClientContext context_;
  grpc::CompletionQueue queue_;  // holds at most the one pending operation
  v1::GenerateEvent event_;
  std::unique_ptr<grpc::ClientAsyncReader<v1::GenerateEvent>> reader_;
  Pending pending_ = Pending::kStart;
  bool ended_ = false, finished_ = false;
};

}  // namespace tailor
