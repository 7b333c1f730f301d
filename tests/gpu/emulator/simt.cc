#include "tests/gpu/emulator/simt.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <utility>
#include <vector>

namespace emulator {
namespace {

constexpr size_t kStackBytes = 64 << 10;
constexpr size_t kMostThreads = 1024;

enum class Wait { kNothing, kBlock, kWarp, kEnd };

struct Copy {
  void* to;
  const void* from;
  int bytes;
};

struct Fiber {
  void* stack_pointer = nullptr;
  Wait wait = Wait::kNothing;
  dim3 thread;
  int exchanges = 0;
  std::vector<Copy> copies;
};

struct Machine {
  Position position;
  std::vector<Fiber> fibers = std::vector<Fiber>(kMostThreads);
  std::byte* stacks = nullptr;
  Exchanged exchanged[kMostThreads / 32][2][32];
  alignas(16) std::byte shared[228 << 10];
  void* scheduler = nullptr;  // its stack pointer
  size_t current = 0;
  const std::function<void()>* kernel = nullptr;
  bool reverse = false;
  std::map<const void*, Kernel> kernels;
};
Machine& machine() {
  static Machine* const made = new Machine;
  return *made;
}

// Saves the callee's registers on this stack, leaves its pointer in *from and goes on at `to`.
extern "C" void EmulatorSwitch(void** from, void* to);
asm(R"(
.text
.local EmulatorSwitch
EmulatorSwitch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");

void Yield(Wait wait) {
  Machine& m = machine();
  Fiber& fiber = m.fibers[m.current];
  fiber.wait = wait;
  EmulatorSwitch(&fiber.stack_pointer, m.scheduler);
}

void Run() {
  (*machine().kernel)();
  Yield(Wait::kEnd);
  std::abort();  // an ended fiber is not run again
}

void Prepare(Fiber& fiber, std::byte* stack) {
  auto** top = reinterpret_cast<void**>(stack + kStackBytes) - 1;  // Run begins as after a call
  *--top = reinterpret_cast<void*>(&Run);
  top -= 6;
  fiber.stack_pointer = top;
  fiber.wait = Wait::kNothing;
  fiber.exchanges = 0;
  fiber.copies.clear();
}

[[noreturn]] void Stuck(const char* why) {
  std::fprintf(stderr, "emulator: %s\n", why);
  std::abort();
}

// Runs the warp [first, last) for as long as its threads exchange values only with one another.
void RunWarp(size_t first, size_t last) {
  Machine& m = machine();
  while (true) {
    size_t at_warp = 0;
    for (size_t i = first; i < last; ++i) {
      m.current = m.reverse ? last - 1 - (i - first) : i;
      Fiber& fiber = m.fibers[m.current];
      if (fiber.wait == Wait::kNothing) {
        m.position.thread = fiber.thread;
        EmulatorSwitch(&m.scheduler, fiber.stack_pointer);
      }
      at_warp += fiber.wait == Wait::kWarp ? 1 : 0;
    }
    if (at_warp == 0) return;
    if (at_warp != 32) Stuck("a part of a warp exchanges values");
    for (size_t i = first; i < last; ++i) m.fibers[i].wait = Wait::kNothing;
  }
}

// One warp after the other, each as far as the next barrier of the block: what a warp may not yet
// read or write, it finds undone or done too early.
void RunBlock(size_t count) {
  Machine& m = machine();
  std::memset(m.shared, 0xff, sizeof(m.shared));
  for (size_t i = 0; i < count; ++i) {
    m.fibers[i].thread = dim3(static_cast<unsigned>(i), 0, 0);
    Prepare(m.fibers[i], m.stacks + i * kStackBytes);
  }
  for (size_t ended = 0; ended < count;) {
    for (size_t warp = 0; warp < count; warp += 32) {
      const size_t first = m.reverse ? count - 32 - warp : warp;
      RunWarp(first, first + 32);
    }
    ended = 0;
    for (size_t i = 0; i < count; ++i) {
      ended += m.fibers[i].wait == Wait::kEnd ? 1 : 0;
      if (m.fibers[i].wait == Wait::kBlock) m.fibers[i].wait = Wait::kNothing;
    }
  }
}

}  // namespace

Position& State() { return machine().position; }

void AddKernel(const void* kernel, Kernel known) {
  machine().kernels.try_emplace(kernel, std::move(known));
}
const Kernel* FindKernel(const void* kernel) {
  const auto found = machine().kernels.find(kernel);
  return found == machine().kernels.end() ? nullptr : &found->second;
}

void* DynamicShared() { return machine().shared; }
int Lane() { return static_cast<int>(machine().current % 32); }
void SyncBlock() { Yield(Wait::kBlock); }

const Exchanged* Exchange(const void* value, size_t bytes) {
  Machine& m = machine();
  Fiber& fiber = m.fibers[m.current];
  Exchanged* lanes = m.exchanged[m.current / 32][fiber.exchanges++ % 2];
  std::memcpy(lanes[m.current % 32].bytes, value, bytes);
  Yield(Wait::kWarp);
  return lanes;
}

void DeferCopy(void* to, const void* from, int bytes) {
  machine().fibers[machine().current].copies.push_back({to, from, bytes});
}
void RunCopies() {
  std::vector<Copy>& copies = machine().fibers[machine().current].copies;
  for (const Copy& copy : copies) {
    std::memset(copy.to, 0, 16);
    std::memcpy(copy.to, copy.from, copy.bytes);
  }
  copies.clear();
}

void Launch(dim3 grid, dim3 threads, size_t shared_bytes, cudaStream_t,
            const std::function<void()>& kernel) {
  Machine& m = machine();
  const size_t count = threads.x;
  if (threads.y != 1 || threads.z != 1 || count > kMostThreads || count % 32 != 0 ||
      shared_bytes > (48u << 10)) {
    Stuck("a launch this emulator does not know");
  }
  if (m.stacks == nullptr) {
    void* stacks = mmap(nullptr, kStackBytes * kMostThreads, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stacks == MAP_FAILED) Stuck("no memory for stacks");
    m.stacks = static_cast<std::byte*>(stacks);
  }
  m.reverse = !m.reverse;
  m.kernel = &kernel;
  m.position.grid = grid;
  m.position.threads = threads;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        m.position.block = dim3(x, y, z);
        RunBlock(count);
      }
    }
  }
}

}  // namespace emulator
