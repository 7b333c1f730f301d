// The part of PageStore that reads rows: selections, and the self-check's exact attention.
#include <mutex>
#include <shared_mutex>
#include <span>

#include "common/status.h"
#include "kvstore/page_store.h"

namespace tailor {
namespace {

absl::Status ValidateExactCall(const ExactCall& call, const PoolShape& shape) {
  if (call.queries.size() > kMaxExactQueries || call.sink_tokens < 0 ||
      call.sink_tokens > kPageTokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("exact call has ", call.queries.size(), " queries and a sink of ",
                     call.sink_tokens, ", limits ", kMaxExactQueries, " and ", kPageTokens));
  }
  for (const ExactQuery& query : call.queries) {
    const bool in_pool = query.layer >= 0 && query.layer < shape.layers && query.kv_head >= 0 &&
                         query.kv_head < shape.kv_heads;
    if (in_pool && !query.q.empty() && query.q.size() % shape.head_dim == 0) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("exact query of layer ", query.layer, " head ", query.kv_head, " has ",
                     query.q.size(), " floats: the pool has ", shape.layers, " layers, ",
                     shape.kv_heads, " heads of ", shape.head_dim));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<PoolShape> PageStore::Select(LeaseId lease, const SelectCall& call,
                                            SelectScratch& scratch, Selection* out) {
  std::unique_lock lock(mutex_);
  TS_ASSIGN_OR_RETURN(const SequencePtr sequence, Find(lease, call.sequence));
  ++counters_.selects;
  std::shared_lock pages_lock(sequence->pages_lock);
  lock.unlock();
  const PoolView& view = sequence->pool->view;
  const PoolShape& shape = view.shape();
  TS_RETURN_IF_ERROR(ValidateSelectParams(call.params, shape));
  if (call.layer < 0 || call.layer >= shape.layers || view.layout().SparseRank(call.layer) < 0) {
    return absl::InvalidArgumentError(absl::StrCat("layer ", call.layer, " has no index"));
  }
  if (call.sealed_pages < 0 || call.sealed_pages > sequence->sealed) {
    return absl::FailedPreconditionError(absl::StrCat("selection over ", call.sealed_pages,
                                                      " pages, the sequence has ",
                                                      sequence->sealed, " sealed"));
  }
  const size_t group_floats = static_cast<size_t>(shape.kv_heads) * shape.head_dim;
  if (call.q.empty() || call.q.size() % group_floats != 0) {
    return absl::InvalidArgumentError(absl::StrCat("query has ", call.q.size(),
                                                   " floats, needs a multiple of ", group_floats));
  }
  const auto candidates = std::span(sequence->pages).first(call.sealed_pages);
  // Seldom fewer than are sealed: a shared prefix or a history cut back reaches into the window.
  RunningKmax fewer{PoolShape{}};
  if (call.sealed_pages < sequence->sealed) {
    fewer = RunningKmax(shape);
    fewer.Extend(view, candidates);
  }
  const SelectInput input = {.pool = &view,
                             .layer = call.layer,
                             .sealed_pages = candidates,
                             .kmax = call.sealed_pages < sequence->sealed ? &fewer
                                                                          : &sequence->kmax,
                             .q = call.q,
                             .params = call.params};
  tailor::Select(input, scratch, out);
  const absl::Status gathered = Gather(input, out);
  if (!gathered.ok()) {
    pages_lock.unlock();  // mutex_ comes first
    lock.lock();
    ++counters_.checksum_failures;
    return gathered;
  }
  return shape;
}

absl::StatusOr<std::vector<ExactOutput>> PageStore::AttendExactly(LeaseId lease,
                                                                  const ExactCall& call) {
  std::unique_lock lock(mutex_);
  TS_ASSIGN_OR_RETURN(const SequencePtr sequence, Find(lease, call.sequence));
  counters_.exact_queries += static_cast<int64_t>(call.queries.size());
  std::shared_lock pages_lock(sequence->pages_lock);
  lock.unlock();
  const PoolView& view = sequence->pool->view;
  TS_RETURN_IF_ERROR(ValidateExactCall(call, view.shape()));
  if (call.sealed_pages < 0 || call.sealed_pages > sequence->sealed) {
    return absl::FailedPreconditionError(absl::StrCat("exact attention over ", call.sealed_pages,
                                                      " pages, the sequence has ",
                                                      sequence->sealed, " sealed"));
  }
  std::vector<ExactOutput> answers(call.queries.size());
  ExactScratch scratch;
  for (size_t i = 0; i < answers.size(); ++i) {
    const ExactQuery& query = call.queries[i];
    const absl::Status attended = tailor::AttendExactly(
        {.pool = &view,
         .layer = query.layer,
         .kv_head = query.kv_head,
         .sealed_pages = std::span(sequence->pages).first(call.sealed_pages),
         .sink_tokens = call.sink_tokens,
         .q = query.q},
        scratch, &answers[i]);
    if (attended.ok()) continue;
    pages_lock.unlock();  // mutex_ comes first
    lock.lock();
    ++counters_.checksum_failures;
    return attended;
  }
  return answers;
}

}  // namespace tailor
