// What this machine can do at all: the yardsticks of every row that follows.
#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <cstring>

#include "common/status.h"
#include "tests/bench/gpu/rig.h"

namespace tailor::bench {
namespace {

constexpr int kTries = 5;

// Seconds of the fastest of some runs: a ceiling is what the machine does undisturbed.
template <typename Fn>
double Best(Backend& ops, Fn run) {
  double best = 1e30;
  for (int i = 0; i < kTries; ++i) {
    ops.Synchronize();
    const Stopwatch watch;
    run();
    ops.Synchronize();
    best = std::min(best, watch.seconds());
  }
  return best;
}

// Read and written bytes a second within device memory. Upload's copy takes either side's memory.
absl::StatusOr<double> DeviceCopy(Rig& rig) {
  const int64_t bytes = rig.plan.copy_bytes;
  TS_ASSIGN_OR_RETURN(const DeviceBuffer from, rig.ops().Allocate(bytes));
  TS_ASSIGN_OR_RETURN(const DeviceBuffer to, rig.ops().Allocate(bytes));
  const double seconds = Best(rig.ops(), [&] {
    rig.ops().Upload({from.data(), static_cast<size_t>(bytes)}, to.data());
  });
  return 2 * static_cast<double>(bytes) / seconds;
}

// The pool is mapped, so its pages are locked: the way of every contiguous copy to the device.
absl::StatusOr<double> PinnedToDevice(Rig& rig) {
  const std::span<std::byte> pool = rig.model->pool.bytes();
  const auto bytes = std::min<int64_t>(rig.plan.copy_bytes, static_cast<int64_t>(pool.size()));
  TS_ASSIGN_OR_RETURN(const DeviceBuffer to, rig.ops().Allocate(bytes));
  const double seconds =
      Best(rig.ops(), [&] { rig.ops().Upload(pool.first(static_cast<size_t>(bytes)), to.data()); });
  return static_cast<double>(bytes) / seconds;
}

uint64_t Sum(std::span<const std::byte> bytes) {
  std::array<uint64_t, 8> sums = {};
  for (size_t at = 0; at + sizeof(sums) <= bytes.size(); at += sizeof(sums)) {
    std::array<uint64_t, 8> words;
    std::memcpy(words.data(), bytes.data() + at, sizeof(words));
    for (size_t i = 0; i < words.size(); ++i) sums[i] += words[i];
  }
  uint64_t all = 0;
  for (const uint64_t sum : sums) all += sum;
  return all;
}

double HostRead(Rig& rig) {
  const std::span<const std::byte> pool = rig.model->pool.bytes();
  const auto bytes = std::min<size_t>(static_cast<size_t>(4 * rig.plan.copy_bytes), pool.size());
  constexpr size_t kPiece = size_t{1} << 20;
  const auto pieces = static_cast<int64_t>((bytes + kPiece - 1) / kPiece);
  std::atomic<uint64_t> kept{0};  // so that the reads are not left out
  const double seconds = Best(rig.ops(), [&] {
    rig.ops().RunOnHost(pieces, [&](int64_t piece, int) {
      const size_t first = static_cast<size_t>(piece) * kPiece;
      kept += Sum(pool.subspan(first, std::min(kPiece, bytes - first)));
    });
  });
  return static_cast<double>(bytes) / seconds;
}

// FLOPs a second of the largest product of one full prefill chunk.
absl::StatusOr<double> Gemm(Rig& rig) {
  const LlamaHyperparameters& m = rig.shape();
  const int64_t rows = rig.plan.chunk_tokens;
  const auto floats = static_cast<int64_t>(sizeof(float));
  TS_ASSIGN_OR_RETURN(const DeviceBuffer in, rig.ops().Allocate(rows * m.hidden * floats));
  TS_ASSIGN_OR_RETURN(const DeviceBuffer out, rig.ops().Allocate(rows * m.ffn_hidden * floats));
  const int repeat = rig.options.geometry == "tiny" ? 1 : 8;
  const double seconds = Best(rig.ops(), [&] {
    for (int i = 0; i < repeat; ++i) {
      const auto layer = static_cast<size_t>(i) % rig.model->model.weights.layers.size();
      rig.ops().MatMul(in.Matrix<float>(rows, m.hidden),
                       rig.model->model.weights.layers[layer].gate,
                       out.Matrix<float>(rows, m.ffn_hidden));
    }
  });
  return repeat * 2.0 * static_cast<double>(rows) * m.hidden * m.ffn_hidden / seconds;
}

}  // namespace

absl::Status MeasureCeilings(Rig& rig) {
  TS_ASSIGN_OR_RETURN(rig.ceilings.device_copy, DeviceCopy(rig));
  TS_ASSIGN_OR_RETURN(rig.ceilings.pinned_to_device, PinnedToDevice(rig));
  rig.ceilings.host_read = HostRead(rig);
  TS_ASSIGN_OR_RETURN(rig.ceilings.gemm, Gemm(rig));
  rig.results["ceilings"] = {{"device_copy_gb_s", rig.ceilings.device_copy / 1e9},
                             {"pinned_to_device_gb_s", rig.ceilings.pinned_to_device / 1e9},
                             {"host_read_gb_s", rig.ceilings.host_read / 1e9},
                             {"gemm_tflop_s", rig.ceilings.gemm / 1e12},
                             {"gemm_rows", rig.plan.chunk_tokens}};
  std::fprintf(stderr,
               "ceilings: device copy %.0f GB/s, pinned to device %.1f GB/s, host read %.0f GB/s, "
               "GEMM of %lld rows %.1f TFLOP/s\n",
               rig.ceilings.device_copy / 1e9, rig.ceilings.pinned_to_device / 1e9,
               rig.ceilings.host_read / 1e9, static_cast<long long>(rig.plan.chunk_tokens),
               rig.ceilings.gemm / 1e12);
  return absl::OkStatus();
}

}  // namespace tailor::bench
