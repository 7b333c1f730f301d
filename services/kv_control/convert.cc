#include "services/kv_control/convert.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "common/status.h"
#include "kvstore/arena.h"

namespace tailor {
namespace {

absl::StatusOr<Fingerprint> ParseFingerprint(const char* what, const std::string& bytes) {
  Fingerprint result;
  if (bytes.size() != result.bytes.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, " fingerprint has ", bytes.size(), " bytes, not ", result.bytes.size()));
  }
  std::copy(bytes.begin(), bytes.end(), result.bytes.begin());
  return result;
}

absl::Status CheckName(const char* what, const std::string& name, size_t least_bytes) {
  if (name.size() >= least_bytes && name.size() <= kMaxKeyBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(what, " has ", name.size(), " bytes, limit ",
                                                 least_bytes, " to ", kMaxKeyBytes));
}

std::string BytesOf(const Fingerprint& fingerprint) {
  return {fingerprint.bytes.begin(), fingerprint.bytes.end()};
}

}  // namespace

LeaseRef ParseLease(const v1::Lease& lease) {
  return {.epoch = lease.epoch(), .lease = lease.lease()};
}

SequenceHandle ParseHandle(const v1::SequenceHandle& handle) {
  return {.id = handle.id(), .generation = handle.generation()};
}

absl::StatusOr<SequenceKey> ParseKey(const v1::SequenceKey& key) {
  TS_RETURN_IF_ERROR(CheckName("tenant", key.tenant(), 0));
  TS_RETURN_IF_ERROR(CheckName("sequence name", key.name(), 1));
  return SequenceKey{.tenant = key.tenant(), .name = key.name()};
}

absl::StatusOr<PoolSpec> ParsePoolSpec(const v1::OpenPoolRequest& request) {
  PoolSpec spec;
  TS_ASSIGN_OR_RETURN(spec.model, ParseFingerprint("model", request.model_fingerprint()));
  TS_ASSIGN_OR_RETURN(spec.policy, ParseFingerprint("policy", request.policy_fingerprint()));
  spec.shape.layers = request.shape().layers();
  spec.shape.kv_heads = request.shape().kv_heads();
  spec.shape.head_dim = request.shape().head_dim();
  spec.shape.sparse_layers.assign(request.shape().sparse_layers().begin(),
                                  request.shape().sparse_layers().end());
  TS_RETURN_IF_ERROR(spec.shape.Validate());
  if (request.max_bytes() < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_bytes is ", request.max_bytes(), ", limit 0 and up"));
  }
  spec.max_bytes = request.max_bytes();
  return spec;
}

absl::StatusOr<PageOrigin> ParseOrigin(v1::PageOrigin origin) {
  if (origin == v1::PAGE_ORIGIN_EXACT_PREFILL) return PageOrigin::kExactPrefill;
  if (origin == v1::PAGE_ORIGIN_DECODED) return PageOrigin::kDecoded;
  return absl::InvalidArgumentError(absl::StrCat("page origin ", static_cast<int>(origin),
                                                 " is neither exact prefill nor decoded"));
}

absl::StatusOr<std::vector<TokenId>> ParseHistory(const v1::OpenSequenceRequest& request) {
  if (request.history_size() > kMaxHistoryTokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("history has ", request.history_size(), " tokens, limit ", kMaxHistoryTokens));
  }
  return std::vector<TokenId>(request.history().begin(), request.history().end());
}

SlottedGrant ParseGrant(const v1::SequenceGrant& grant) {
  SlottedGrant result;
  result.grant.handle = ParseHandle(grant.handle());
  for (const uint32_t page : grant.pages()) result.grant.pages.push_back(PageId{page});
  result.grant.sealed_pages = grant.sealed_pages();
  result.grant.committed_tokens = grant.committed_tokens();
  result.grant.exact = grant.exact();
  result.grant.budget_doublings = std::clamp(grant.budget_doublings(), 0, kMaxBudgetDoublings);
  result.slot = grant.slot();
  return result;
}

absl::StatusOr<ExactCall> ParseExactCall(const v1::AttendExactlyRequest& request) {
  if (request.queries_size() > static_cast<int>(kMaxExactQueries)) {
    return absl::InvalidArgumentError(absl::StrCat("call has ", request.queries_size(),
                                                   " exact queries, limit ", kMaxExactQueries));
  }
  ExactCall call = {.sequence = ParseHandle(request.sequence()),
                    .sealed_pages = request.sealed_pages(),
                    .sink_tokens = request.sink_tokens(),
                    .queries = {}};
  for (const v1::ExactQuery& query : request.queries()) {
    const auto& q = query.q();
    if (!std::all_of(q.begin(), q.end(), [](float value) { return std::isfinite(value); })) {
      return absl::InvalidArgumentError(
          absl::StrCat("exact query of layer ", query.layer(), " is not finite"));
    }
    call.queries.push_back({query.layer(), query.kv_head(), {q.begin(), q.end()}});
  }
  return call;
}

std::vector<ExactOutput> ParseExactAnswers(const v1::AttendExactlyResponse& response) {
  std::vector<ExactOutput> answers;
  for (const v1::ExactAnswer& answer : response.answers()) {
    answers.push_back({.lse = {answer.lse().begin(), answer.lse().end()},
                       .out = {answer.out().begin(), answer.out().end()}});
  }
  return answers;
}

StoreStats ParseStats(const v1::GetStatsResponse& response) {
  return {.epoch = response.epoch(),
          .arena_bytes = response.arena_bytes(),
          .pool_bytes = response.pool_bytes(),
          .pages_total = response.pages_total(),
          .pages_free = response.pages_free(),
          .pages_open = response.pages_open(),
          .pages_sealed = response.pages_sealed(),
          .pages_shared = response.pages_shared(),
          .page_bytes = response.page_bytes(),
          .sequences_attached = response.sequences_attached(),
          .sequences_detached = response.sequences_detached(),
          .evicted_sequences = response.evicted_sequences(),
          .checksum_failures = response.checksum_failures(),
          .stale_refusals = response.stale_refusals(),
          .selects = response.selects(),
          .exact_queries = response.exact_queries()};
}

void Fill(LeaseRef lease, v1::Lease* out) {
  out->set_epoch(lease.epoch);
  out->set_lease(lease.lease);
}

void Fill(SequenceHandle handle, v1::SequenceHandle* out) {
  out->set_id(handle.id);
  out->set_generation(handle.generation);
}

void Fill(const SequenceKey& key, v1::SequenceKey* out) {
  out->set_tenant(key.tenant);
  out->set_name(key.name);
}

void Fill(const PoolSpec& spec, v1::OpenPoolRequest* out) {
  out->set_model_fingerprint(BytesOf(spec.model));
  out->set_policy_fingerprint(BytesOf(spec.policy));
  v1::PoolShape& shape = *out->mutable_shape();
  shape.set_layers(spec.shape.layers);
  shape.set_kv_heads(spec.shape.kv_heads);
  shape.set_head_dim(spec.shape.head_dim);
  shape.mutable_sparse_layers()->Add(spec.shape.sparse_layers.begin(),
                                     spec.shape.sparse_layers.end());
  out->set_max_bytes(spec.max_bytes);
}

void Fill(const SlottedGrant& grant, v1::SequenceGrant* out) {
  Fill(grant.grant.handle, out->mutable_handle());
  out->set_slot(grant.slot);
  for (const PageId page : grant.grant.pages) out->add_pages(Index(page));
  out->set_sealed_pages(grant.grant.sealed_pages);
  out->set_committed_tokens(grant.grant.committed_tokens);
  out->set_exact(grant.grant.exact);
  out->set_budget_doublings(grant.grant.budget_doublings);
}

void Fill(const ExactCall& call, v1::AttendExactlyRequest* out) {
  Fill(call.sequence, out->mutable_sequence());
  out->set_sealed_pages(call.sealed_pages);
  out->set_sink_tokens(call.sink_tokens);
  for (const ExactQuery& query : call.queries) {
    v1::ExactQuery* to = out->add_queries();
    to->set_layer(query.layer);
    to->set_kv_head(query.kv_head);
    to->mutable_q()->Add(query.q.begin(), query.q.end());
  }
}

void Fill(const std::vector<ExactOutput>& answers, v1::AttendExactlyResponse* out) {
  for (const ExactOutput& answer : answers) {
    v1::ExactAnswer* to = out->add_answers();
    to->mutable_lse()->Add(answer.lse.begin(), answer.lse.end());
    to->mutable_out()->Add(answer.out.begin(), answer.out.end());
  }
}

void Fill(const StoreStats& stats, v1::GetStatsResponse* out) {
  out->set_epoch(stats.epoch);
  out->set_arena_bytes(stats.arena_bytes);
  out->set_pool_bytes(stats.pool_bytes);
  out->set_page_bytes(stats.page_bytes);
  out->set_pages_total(stats.pages_total);
  out->set_pages_free(stats.pages_free);
  out->set_pages_open(stats.pages_open);
  out->set_pages_sealed(stats.pages_sealed);
  out->set_pages_shared(stats.pages_shared);
  out->set_sequences_attached(stats.sequences_attached);
  out->set_sequences_detached(stats.sequences_detached);
  out->set_evicted_sequences(stats.evicted_sequences);
  out->set_checksum_failures(stats.checksum_failures);
  out->set_stale_refusals(stats.stale_refusals);
  out->set_selects(stats.selects);
  out->set_exact_queries(stats.exact_queries);
}

v1::PageOrigin ToProto(PageOrigin origin) {
  switch (origin) {
    case PageOrigin::kExactPrefill:
      return v1::PAGE_ORIGIN_EXACT_PREFILL;
    case PageOrigin::kDecoded:
      return v1::PAGE_ORIGIN_DECODED;
  }
  return v1::PAGE_ORIGIN_UNSPECIFIED;
}

}  // namespace tailor
