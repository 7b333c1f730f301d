#include "services/kvstore/kv_service.h"

#include <vector>

#include "services/kv_control/convert.h"
#include "services/status_grpc.h"

namespace tailor {

grpc::Status KvService::OpenPool(grpc::ServerContext*, const v1::OpenPoolRequest* request,
                                 v1::OpenPoolResponse* response) {
  const absl::StatusOr<PoolSpec> spec = ParsePoolSpec(*request);
  if (!spec.ok()) return ToGrpc(spec.status());
  const absl::StatusOr<PoolGrant> grant = store_->OpenPool(ParseLease(request->lease()), *spec);
  if (!grant.ok()) return ToGrpc(grant.status());
  response->set_pool(grant->pool);
  response->set_arena_offset(grant->arena_offset);
  response->set_pages(grant->pages);
  return grpc::Status::OK;
}

grpc::Status KvService::OpenSequence(grpc::ServerContext*, const v1::OpenSequenceRequest* request,
                                     v1::OpenSequenceResponse* response) {
  const absl::StatusOr<SequenceKey> key = ParseKey(request->key());
  if (!key.ok()) return ToGrpc(key.status());
  const absl::StatusOr<std::vector<TokenId>> history = ParseHistory(*request);
  if (!history.ok()) return ToGrpc(history.status());
  const absl::StatusOr<SlottedGrant> grant =
      store_->OpenSequence(ParseLease(request->lease()), request->pool(), *key, *history);
  if (!grant.ok()) return ToGrpc(grant.status());
  Fill(*grant, response->mutable_grant());
  return grpc::Status::OK;
}

grpc::Status KvService::ForkSequence(grpc::ServerContext*, const v1::ForkSequenceRequest* request,
                                     v1::ForkSequenceResponse* response) {
  const absl::StatusOr<SequenceKey> child = ParseKey(request->child());
  if (!child.ok()) return ToGrpc(child.status());
  const absl::StatusOr<SlottedGrant> grant =
      store_->ForkSequence(ParseLease(request->lease()), ParseHandle(request->parent()), *child);
  if (!grant.ok()) return ToGrpc(grant.status());
  Fill(*grant, response->mutable_grant());
  return grpc::Status::OK;
}

grpc::Status KvService::ReservePages(grpc::ServerContext*, const v1::ReservePagesRequest* request,
                                     v1::ReservePagesResponse* response) {
  const absl::StatusOr<std::vector<PageId>> pages = store_->ReservePages(
      ParseLease(request->lease()), ParseHandle(request->sequence()), request->count());
  if (!pages.ok()) return ToGrpc(pages.status());
  for (const PageId page : *pages) response->add_pages(Index(page));
  return grpc::Status::OK;
}

grpc::Status KvService::SealPages(grpc::ServerContext*, const v1::SealPagesRequest* request,
                                  v1::SealPagesResponse*) {
  const absl::StatusOr<PageOrigin> origin = ParseOrigin(request->origin());
  if (!origin.ok()) return ToGrpc(origin.status());
  return ToGrpc(store_->SealPages(ParseLease(request->lease()), ParseHandle(request->sequence()),
                                  request->count(), *origin));
}

grpc::Status KvService::VerifyPages(grpc::ServerContext*, const v1::VerifyPagesRequest* request,
                                    v1::VerifyPagesResponse*) {
  return ToGrpc(store_->VerifyPages(ParseLease(request->lease()), ParseHandle(request->sequence()),
                                    request->first(), request->count()));
}

grpc::Status KvService::DetachSequence(grpc::ServerContext*,
                                       const v1::DetachSequenceRequest* request,
                                       v1::DetachSequenceResponse*) {
  return ToGrpc(
      store_->DetachSequence(ParseLease(request->lease()), ParseHandle(request->sequence())));
}

grpc::Status KvService::CloseSequence(grpc::ServerContext*, const v1::CloseSequenceRequest* request,
                                      v1::CloseSequenceResponse*) {
  return ToGrpc(
      store_->CloseSequence(ParseLease(request->lease()), ParseHandle(request->sequence())));
}

grpc::Status KvService::RemoveSequence(grpc::ServerContext*,
                                       const v1::RemoveSequenceRequest* request,
                                       v1::RemoveSequenceResponse*) {
  const absl::StatusOr<SequenceKey> key = ParseKey(request->key());
  if (!key.ok()) return ToGrpc(key.status());
  return ToGrpc(store_->RemoveSequence(ParseLease(request->lease()), *key));
}

grpc::Status KvService::AttendExactly(grpc::ServerContext*,
                                      const v1::AttendExactlyRequest* request,
                                      v1::AttendExactlyResponse* response) {
  const absl::StatusOr<ExactCall> call = ParseExactCall(*request);
  if (!call.ok()) return ToGrpc(call.status());
  const auto answers = store_->AttendExactly(ParseLease(request->lease()), *call);
  if (!answers.ok()) return ToGrpc(answers.status());
  Fill(*answers, response);
  return grpc::Status::OK;
}

grpc::Status KvService::GetStats(grpc::ServerContext*, const v1::GetStatsRequest* request,
                                 v1::GetStatsResponse* response) {
  const absl::StatusOr<StoreStats> stats = store_->Stats(ParseLease(request->lease()));
  if (!stats.ok()) return ToGrpc(stats.status());
  Fill(*stats, response);
  return grpc::Status::OK;
}

}  // namespace tailor
