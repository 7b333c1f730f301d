#include "services/gateway/generate_stream.h"

#include "common/status.h"

namespace tailor {

GenerateStream::GenerateStream(v1::DecoderService::Stub* stub, const v1::GenerateRequest& request)
    : reader_(stub->AsyncGenerate(&context_, request, &queue_, nullptr)) {}

GenerateStream::~GenerateStream() {
  if (!finished_) {
    context_.TryCancel();
    while (Wait(std::chrono::hours(1)) != Next::kEnd) {  // a cancelled call ends at once
    }
    (void)Finish();
  }
  queue_.Shutdown();
  void* tag = nullptr;
  bool ok = false;
  while (queue_.Next(&tag, &ok)) {
  }
}

GenerateStream::Next GenerateStream::Wait(std::chrono::milliseconds patience) {
  const auto deadline = std::chrono::system_clock::now() + patience;
  while (!ended_) {
    if (pending_ == Pending::kNothing) {
      reader_->Read(&event_, nullptr);
      pending_ = Pending::kRead;
    }
    void* tag = nullptr;
    bool ok = false;
    if (queue_.AsyncNext(&tag, &ok, deadline) != grpc::CompletionQueue::GOT_EVENT) {
      return Next::kNothingYet;
    }
    const bool was_read = pending_ == Pending::kRead;
    pending_ = Pending::kNothing;
    if (!ok) ended_ = true;
    if (ok && was_read) return Next::kEvent;
  }
  return Next::kEnd;
}

grpc::Status GenerateStream::Finish() {
  TS_CHECK(ended_ && !finished_);
  finished_ = true;
  grpc::Status status;
  reader_->Finish(&status, nullptr);
  void* tag = nullptr;
  bool ok = false;
  queue_.Next(&tag, &ok);
  return status;
}

}  // namespace tailor
