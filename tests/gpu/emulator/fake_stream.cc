#include "tests/gpu/emulator/fake_stream.h"

#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <set>
#include <utility>

namespace emulator {
namespace {

struct Stream {
  bool early = false;  // runs what it can at once
  std::deque<std::function<void()>> ops;
  uint64_t enqueued = 0, done = 0;
};
struct Event {
  Stream* stream = nullptr;  // null: never recorded
  uint64_t after = 0;
};

struct Device {
  std::set<Stream*> streams;
  std::map<const std::byte*, size_t> memory;
};
Device& device() {
  static Device* const made = new Device;
  return *made;
}

// TAILOR_EMULATED_STREAM=eager: a device that is faster than its host. For waits of the host that
// do not ask the device, which a real one ends by running on: the doorbell's.
bool RunsAtOnce() {
  static const bool at_once = [] {
    const char* how = std::getenv("TAILOR_EMULATED_STREAM");
    return how != nullptr && std::strcmp(how, "eager") == 0;
  }();
  return at_once;
}

// TAILOR_EMULATED_ASIDE=early: streams beside the first run ahead of it, as far as they may.
bool LaterStreamsAreEarly() {
  const char* aside = std::getenv("TAILOR_EMULATED_ASIDE");
  return aside != nullptr && std::strcmp(aside, "early") == 0;
}

void RunUpTo(Stream& stream, uint64_t end) {
  while (stream.done < end) {
    const std::function<void()> op = std::move(stream.ops.front());
    stream.ops.pop_front();
    op();
    ++stream.done;
  }
}

}  // namespace

void Enqueue(cudaStream_t handle, std::function<void()> op) {
  auto* const stream = reinterpret_cast<Stream*>(handle);
  stream->ops.push_back(std::move(op));
  ++stream->enqueued;
  if (stream->early || RunsAtOnce()) RunUpTo(*stream, stream->enqueued);
}

void RunAll() {
  for (Stream* stream : device().streams) RunUpTo(*stream, stream->enqueued);
}

void AddMemory(const void* data, size_t bytes) {
  device().memory[static_cast<const std::byte*>(data)] = bytes;
}
void RemoveMemory(const void* data) {
  RunAll();
  device().memory.erase(static_cast<const std::byte*>(data));
}
bool IsAsynchronous(const void* data) {
  const auto* const at = static_cast<const std::byte*>(data);
  auto after = device().memory.upper_bound(at);
  return after != device().memory.begin() && at < (--after)->first + after->second;
}

}  // namespace emulator

using emulator::Enqueue;
using emulator::Event;
using emulator::IsAsynchronous;
using emulator::Stream;

extern "C" {

// For libraries that enqueue work of their own (fake_cublaslt.cc), found by name.
__attribute__((visibility("default"))) void EmulatorEnqueue(cudaStream_t stream, void (*run)(void*),
                                                            void* data) {
  Enqueue(stream, [=] { run(data); });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  auto* const made = new Stream;
  made->early = emulator::LaterStreamsAreEarly() && !emulator::device().streams.empty();
  emulator::device().streams.insert(made);
  return *stream = reinterpret_cast<cudaStream_t>(made), cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t handle) {
  auto* const stream = reinterpret_cast<Stream*>(handle);
  emulator::RunUpTo(*stream, stream->enqueued);
  emulator::device().streams.erase(stream);
  return delete stream, cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  auto* const stream = reinterpret_cast<Stream*>(handle);
  return emulator::RunUpTo(*stream, stream->enqueued), cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  return *event = reinterpret_cast<cudaEvent_t>(new Event), cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  return delete reinterpret_cast<Event*>(event), cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t handle) {
  auto* const stream = reinterpret_cast<Stream*>(handle);
  *reinterpret_cast<Event*>(event) = {stream, stream->enqueued};
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t handle) {
  const Event& event = *reinterpret_cast<Event*>(handle);
  if (event.stream != nullptr) emulator::RunUpTo(*event.stream, event.after);
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t handle, unsigned) {
  const Event event = *reinterpret_cast<Event*>(handle);
  if (event.stream == nullptr) return cudaSuccess;
  Enqueue(stream, [event] { emulator::RunUpTo(*event.stream, event.after); });
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                            cudaStream_t stream) {
  if (bytes == 0) return cudaSuccess;
  if (!IsAsynchronous(from)) {  // the call takes its copy
    std::vector<std::byte> taken(bytes);
    std::memcpy(taken.data(), from, bytes);
    Enqueue(stream,
            [to, taken = std::move(taken)] { std::memcpy(to, taken.data(), taken.size()); });
  } else {
    Enqueue(stream, [=] { std::memcpy(to, from, bytes); });
  }
  return IsAsynchronous(to) ? cudaSuccess : cudaStreamSynchronize(stream);
}
cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t stream) {
  Enqueue(stream, [=] { std::memset(data, value, bytes); });
  return cudaSuccess;
}

}  // extern "C"
