#include "kvstore/transport/serve_request.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "common/status.h"

namespace tailor {
namespace {

// A refusal of ours, before or after the store was asked.
struct Verdict {
  wire::Refusal refusal = wire::Refusal::kNone;
  absl::Status status;
};

Verdict Malformed(const std::string& what) {
  return {wire::Refusal::kMalformed, absl::InvalidArgumentError(what)};
}

Verdict CheckRequest(const TakenRequest& taken, uint64_t epoch, uint32_t query_floats) {
  const wire::SelectRequest& request = taken.request;
  if (request.version != wire::kVersion) {
    return Malformed(absl::StrCat("request has version ", request.version, ", the store speaks ",
                                  wire::kVersion));
  }
  if (request.check != wire::RequestCheck(request)) return Malformed("request check differs");
  if (request.epoch != epoch) {
    return {wire::Refusal::kStaleEpoch,
            absl::FailedPreconditionError(
                absl::StrCat("request is for store epoch ", request.epoch, ", this is ", epoch))};
  }
  if (request.ticket != taken.ticket) {
    return Malformed(
        absl::StrCat("request has ticket ", request.ticket, ", next is ", taken.ticket));
  }
  if (request.q_floats == 0 || request.q_floats > query_floats) {
    return Malformed(
        absl::StrCat("request has ", request.q_floats, " query floats, limit 1 to ", query_floats));
  }
  if (!std::all_of(taken.q.begin(), taken.q.end(), [](float v) { return std::isfinite(v); })) {
    return Malformed("request has a query that is not finite");
  }
  if (request.deadline_ns <= MonotonicNowNs()) {
    return {wire::Refusal::kDeadline,
            absl::DeadlineExceededError("request was taken up after its deadline")};
  }
  return {};
}

SelectCall CallOf(const TakenRequest& taken) {
  const wire::SelectRequest& request = taken.request;
  SelectCall call;
  call.sequence = {.id = request.sequence, .generation = request.generation};
  // Unsigned on the wire; what does not fit an int32 becomes negative here, which the store
  // refuses.
  call.layer = static_cast<int32_t>(request.layer);
  call.sealed_pages = request.sealed_pages;
  call.q = taken.q;
  call.params = {.channels = request.channels,
                 .top_k = request.top_k,
                 .sink_tokens = request.sink_tokens,
                 .group = static_cast<GroupRule>(request.group),  // what is none the store refuses
                 .rescore_extra = request.rescore_extra};
  return call;
}

// Writes the selection's sizes into the response, unless its bytes pass the slot's room.
Verdict Describe(const ServedStore::Shape& shape, const Selection& selection,
                 const Connection& connection, wire::SelectResponse* response) {
  const auto kv_heads = static_cast<uint32_t>(shape.kv_heads);
  const auto head_dim = static_cast<uint32_t>(shape.head_dim);
  const auto count = static_cast<uint32_t>(selection.count);
  const uint64_t bytes = wire::PayloadBytes(kv_heads, count, head_dim);
  if (!connection.Fits(bytes)) {
    return {wire::Refusal::kTooLarge,
            absl::ResourceExhaustedError(absl::StrCat("answer has ", bytes, " bytes, the slot ",
                                                      connection.geometry().payload_bytes))};
  }
  response->kv_heads = kv_heads;
  response->head_dim = head_dim;
  response->count = count;
  return {};
}

void Count(const Verdict& verdict, RequestCounters& counters) {
  counters.requests.fetch_add(1, std::memory_order_relaxed);
  if (verdict.refusal == wire::Refusal::kMalformed) ++counters.malformed;
  if (verdict.refusal == wire::Refusal::kDeadline) ++counters.late;
  if (verdict.refusal == wire::Refusal::kStaleEpoch) ++counters.stale_epoch;
}

}  // namespace

void ServeRequest(const TakenRequest& taken, ServedStore& store, Connection& connection,
                  ServeScratch& scratch, RequestCounters& counters) {
  const int64_t start_ns = MonotonicNowNs();
  wire::SelectResponse response{};
  response.epoch = store.epoch();
  Verdict verdict = CheckRequest(taken, store.epoch(), connection.geometry().query_floats);
  if (verdict.status.ok()) {
    const absl::StatusOr<ServedStore::Shape> shape =
        store.Select(connection.lease(), CallOf(taken), scratch.select, &scratch.selection);
    verdict = shape.ok() ? Describe(*shape, scratch.selection, connection, &response)
                         : Verdict{wire::Refusal::kStore, shape.status()};
  }
  Count(verdict, counters);
  response.status = static_cast<uint32_t>(verdict.status.code());
  response.refusal = verdict.refusal;
  response.serve_ns = static_cast<uint32_t>(
      std::min<int64_t>(MonotonicNowNs() - start_ns, std::numeric_limits<uint32_t>::max()));
  connection.Answer(taken.ticket, response, std::string(verdict.status.message()),
                    verdict.status.ok() ? &scratch.selection : nullptr);
}

}  // namespace tailor
