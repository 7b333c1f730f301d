// What the GPU tests share: one CUDA backend a program, and a skip with the probe's reason where no
// device answers. TAILOR_GPU_TESTS_ON=cpu runs them on the CPU backend instead: that tests the
// tests.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "tests/worker/ops/attention_case.h"
#include "tests/worker/ops/op_test.h"
#include "worker/ops/cuda/module_abi.h"
#include "worker/ops/cuda_loader.h"

namespace tailor {

inline constexpr int64_t kGpuTestMemory = int64_t{2} << 30;

inline bool TestsRunOn(const char* what) {
  const char* on = std::getenv("TAILOR_GPU_TESTS_ON");
  return on != nullptr && std::strcmp(on, what) == 0;
}
inline bool TestsRunOnCpu() { return TestsRunOn("cpu"); }
// The module under test; empty: the real one.
inline std::filesystem::path TestedModule() {
  if (!TestsRunOn("emulator")) return {};
  // Emulated memory is the host's: a real library must not multiply it.
  setenv(kBlasLibraryVariable, "off", 0);
  return std::filesystem::read_symlink("/proc/self/exe").parent_path() / "backend_emulated.so";
}

inline absl::StatusOr<std::unique_ptr<Backend>> MakeTestedBackend(
    int64_t memory_bytes = kGpuTestMemory) {
  if (TestsRunOnCpu()) return MakeCpuBackend({.threads = 2, .memory_limit_bytes = memory_bytes});
  return MakeCudaBackend(
      {.device = 0, .memory_bytes = memory_bytes, .host_threads = 2, .module = TestedModule()});
}

// cuBLASLt's file for the backends made while this lives; "off": none.
class BlasLibrary {
 public:
  explicit BlasLibrary(const std::string& file) {
    if (const char* was = std::getenv(kBlasLibraryVariable)) was_ = was;
    setenv(kBlasLibraryVariable, file.c_str(), 1);
  }
  BlasLibrary(const BlasLibrary&) = delete;
  BlasLibrary& operator=(const BlasLibrary&) = delete;
  ~BlasLibrary() {
    was_.has_value() ? setenv(kBlasLibraryVariable, was_->c_str(), 1)
                     : unsetenv(kBlasLibraryVariable);
  }

 private:
  std::optional<std::string> was_;
};

class GpuTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto backend = MakeTestedBackend();
    if (absl::IsUnavailable(backend.status())) GTEST_SKIP() << backend.status().message();
    ASSERT_TRUE(backend.ok()) << backend.status();
    ops_ = *std::move(backend);
  }
  // Whole pages of memory that outlive the backend, which may map them.
  std::span<std::byte> Pages(int64_t bytes) {
    const size_t size = (static_cast<size_t>(bytes) + 4095) / 4096 * 4096;
    arena_.reset(static_cast<std::byte*>(std::aligned_alloc(4096, size)));
    std::memset(arena_.get(), 0, size);
    return {arena_.get(), size};
  }

  struct Freed {
    void operator()(std::byte* data) const { std::free(data); }
  };
  std::unique_ptr<std::byte, Freed> arena_;
  std::unique_ptr<Backend> ops_;
};

// bf16 has 8 bits of significand: a rounding to it is off by at most this share.
inline constexpr double kBf16Eps = 0x1p-8;

// How far attention on the device may be from the exact one: the roundings of AttentionTolerance
// with tiles of 64 keys for its splits of 256, and 2 ulp more for each exponential; on tensor cores
// also q rounded to bf16 (a score is off by 2^-8 of its largest) and the numerator's probabilities.
struct DeviceAttentionTolerance {
  double weight = 0, numerator = 0, value = 0;

  DeviceAttentionTolerance(const AttentionTolerance& exact, double score, int64_t tokens,
                           bool tensor_cores)
      : value(exact.value) {
    const double tiles = std::ceil(static_cast<double>(tokens) / 64) + 4;
    weight = exact.weight + kEps * (static_cast<double>(tokens) + (tiles + 1) * (2 * score + 10));
    if (tensor_cores) {
      weight += std::expm1(2 * kBf16Eps * score);
      numerator = kBf16Eps;
    }
  }
  double out() const { return (2 * weight + numerator + kEps) * value; }
  double lse(double log_sum) const { return weight + 4 * kEps * std::abs(log_sum); }
};

}  // namespace tailor
