// What it costs to have rows selected by another process instead of inline: round trips over the
// ring to a real tailor-kvstore, beside the same selections in this process. Shape of a 135M Llama:
// 30 layers, 28 of them sparse, 3 KV heads of 64, 9 query heads; 54 sealed pages (6,912 tokens),
// 128 rows a KV head. Usage: select_bench [SPIN_US]   prints medians of 4,000 calls, layers in
// turn.
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "kvstore/client/local_kv_client.h"
#include "kvstore/client/shm_kv_client.h"
#include "services/kv_control/grpc_kv_control.h"
#include "tests/kvstore/client/written_sequence.h"
#include "tests/services/kvstore/store_process.h"

namespace tailor {
namespace {

constexpr int kCalls = 4000, kQHeads = 9, kFirstSparse = 2;
constexpr int64_t kTokens = 54 * kPageTokens;

PoolSpec ModelPool() {
  PoolSpec spec;
  spec.model.bytes[0] = 1;
  spec.shape = {.layers = 30, .kv_heads = 3, .head_dim = 64, .sparse_layers = {}};
  for (int layer = kFirstSparse; layer < 30; ++layer) spec.shape.sparse_layers.push_back(layer);
  return spec;
}

void SpinFor(int64_t us) {
  const int64_t end_ns = MonotonicNowNs() + us * 1000;
  while (MonotonicNowNs() < end_ns) CpuRelax();
}

enum class Between { kNothing, kSpinAfter, kSleepAfter, kSpinBeforeFinish };

// Microseconds of each call as the caller sees them: from post to rows, without the work between.
void Measure(const char* name, KvClient& client, const WrittenSequence& sequence, Between between) {
  const PoolShape shape = ModelPool().shape;
  std::vector<double> took_us;
  for (int call = 0; call < kCalls; ++call) {
    const std::vector<float> q = KnownQuery(shape, kQHeads, call);
    const SelectCall select = {.sequence = sequence.handle,
                               .layer = kFirstSparse + call % 28,
                               .sealed_pages = sequence.sealed_pages,
                               .q = q,
                               .params = {}};
    const int64_t start_ns = MonotonicNowNs();
    const auto ticket = client.PostSelect(select);
    TS_CHECK(ticket.ok());
    const int64_t posted_ns = MonotonicNowNs();
    if (between == Between::kSpinBeforeFinish) SpinFor(200);
    const int64_t finish_ns = MonotonicNowNs();
    TS_CHECK(client.FinishSelect(*ticket).ok());
    took_us.push_back((MonotonicNowNs() - finish_ns + posted_ns - start_ns) / 1e3);
    if (between == Between::kSpinAfter) SpinFor(200);
    if (between == Between::kSleepAfter) ::usleep(200);
  }
  std::sort(took_us.begin(), took_us.end());
  std::printf("%-52s p10 %7.1f  p50 %7.1f  p99 %7.1f us\n", name, took_us[kCalls / 10],
              took_us[kCalls / 2], took_us[kCalls * 99 / 100]);
}

WrittenSequence Prepare(KvClient& client) {
  const auto pool = client.OpenPool(ModelPool());
  TS_CHECK(pool.ok());
  auto sequence = WriteSequence(client, *pool, "bench", kTokens, 1);
  TS_CHECK(sequence.ok());
  return *std::move(sequence);
}

void MeasureAll(const std::string& who, KvClient& client) {
  const WrittenSequence sequence = Prepare(client);
  Measure((who + ", back to back").c_str(), client, sequence, Between::kNothing);
  Measure((who + ", 200 us of other work between").c_str(), client, sequence, Between::kSpinAfter);
  Measure((who + ", 200 us asleep between").c_str(), client, sequence, Between::kSleepAfter);
  Measure((who + ", posted 200 us ahead of its use").c_str(), client, sequence,
          Between::kSpinBeforeFinish);
}

int Run(const std::string& spin_us) {
  utsname host;
  ::uname(&host);
  std::printf("%s, %u threads; store and worker spin %s us\n", host.release,
              std::thread::hardware_concurrency(), spin_us.c_str());
  auto local_store = PageStore::Create({.arena_bytes = int64_t{400} << 20});
  TS_CHECK(local_store.ok());
  LocalKvClient local(*local_store);
  MeasureAll("inline", local);

  const SocketFolder folder;
  StoreProcess store({"--arena-bytes", "400MiB", "--socket", folder.data(), "--listen",
                      folder.control(), "--spin-us", spin_us, "--log-level", "warn"});
  TS_CHECK(store.IsReady());
  ShmKvClientOptions options;
  options.socket_path = folder.data();
  options.spin_us = std::atoll(spin_us.c_str());
  auto client = ShmKvClient::Connect(options, MakeGrpcKvControl({.address = folder.control()}));
  TS_CHECK(client.ok());
  MeasureAll("over the ring", **client);
  return 0;
}

}  // namespace
}  // namespace tailor

int main(int argc, char** argv) { return tailor::Run(argc > 1 ? argv[1] : "20"); }
