// Streams of the emulated device. Nothing runs when it is enqueued: everything waits until the host
// asks for it, so that memory given back or written again too early shows (but see RunsAtOnce).
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

namespace emulator {

void Enqueue(cudaStream_t stream, std::function<void()> op);
// Of every stream; as the calls of the runtime that wait for the device.
void RunAll();

// Memory whose copies take place in stream order: the device's and page-locked.
void AddMemory(const void* data, size_t bytes);
void RemoveMemory(const void* data);
bool IsAsynchronous(const void* data);

}  // namespace emulator
