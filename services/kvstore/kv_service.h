// The KvStore service: parse, call the store, translate. The other end of GrpcKvControl: what goes
// in there comes out here. Page bytes never pass.
#pragma once

#include "kvstore/client/kv_control.h"
#include "tailor/v1/kvstore.grpc.pb.h"

namespace tailor {

class KvService final : public v1::KvStore::Service {
 public:
  explicit KvService(KvControl* store) : store_(store) {}  // outlives the service

  grpc::Status OpenPool(grpc::ServerContext*, const v1::OpenPoolRequest* request,
                        v1::OpenPoolResponse* response) override;
  grpc::Status OpenSequence(grpc::ServerContext*, const v1::OpenSequenceRequest* request,
                            v1::OpenSequenceResponse* response) override;
  grpc::Status ForkSequence(grpc::ServerContext*, const v1::ForkSequenceRequest* request,
                            v1::ForkSequenceResponse* response) override;
  grpc::Status ReservePages(grpc::ServerContext*, const v1::ReservePagesRequest* request,
                            v1::ReservePagesResponse* response) override;
  grpc::Status SealPages(grpc::ServerContext*, const v1::SealPagesRequest* request,
                         v1::SealPagesResponse*) override;
  grpc::Status VerifyPages(grpc::ServerContext*, const v1::VerifyPagesRequest* request,
                           v1::VerifyPagesResponse*) override;
  grpc::Status DetachSequence(grpc::ServerContext*, const v1::DetachSequenceRequest* request,
                              v1::DetachSequenceResponse*) override;
  grpc::Status CloseSequence(grpc::ServerContext*, const v1::CloseSequenceRequest* request,
                             v1::CloseSequenceResponse*) override;
  grpc::Status RemoveSequence(grpc::ServerContext*, const v1::RemoveSequenceRequest* request,
                              v1::RemoveSequenceResponse*) override;
  grpc::Status AttendExactly(grpc::ServerContext*, const v1::AttendExactlyRequest* request,
                             v1::AttendExactlyResponse* response) override;
  grpc::Status GetStats(grpc::ServerContext*, const v1::GetStatsRequest* request,
                        v1::GetStatsResponse* response) override;

 private:
  KvControl* const store_;
};

}  // namespace tailor
