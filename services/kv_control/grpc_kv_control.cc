#include "services/kv_control/grpc_kv_control.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <utility>
#include <vector>

#include "common/status.h"
#include "services/kv_control/convert.h"
#include "services/status_grpc.h"
#include "tailor/v1/kvstore.grpc.pb.h"

namespace tailor {
namespace {

class GrpcKvControl : public KvControl {
 public:
  GrpcKvControl(const GrpcKvControlOptions& options, std::shared_ptr<grpc::Channel> channel)
      : options_(options), stub_(v1::KvStore::NewStub(std::move(channel))) {}

  absl::StatusOr<PoolGrant> OpenPool(LeaseRef lease, const PoolSpec& spec) override {
    v1::OpenPoolRequest request;
    Fill(lease, request.mutable_lease());
    Fill(spec, &request);
    v1::OpenPoolResponse response;
    TS_RETURN_IF_ERROR(Call(&v1::KvStore::Stub::OpenPool, request, &response));
    return PoolGrant{.pool = response.pool(),
                     .arena_offset = response.arena_offset(),
                     .pages = response.pages()};
  }

  absl::StatusOr<SlottedGrant> OpenSequence(LeaseRef lease, uint64_t pool, const SequenceKey& key,
                                            std::span<const TokenId> history) override {
    v1::OpenSequenceRequest request;
    Fill(lease, request.mutable_lease());
    request.set_pool(pool);
    Fill(key, request.mutable_key());
    request.mutable_history()->Add(history.begin(), history.end());
    v1::OpenSequenceResponse response;
    TS_RETURN_IF_ERROR(Call(&v1::KvStore::Stub::OpenSequence, request, &response));
    return ParseGrant(response.grant());
  }

  absl::StatusOr<SlottedGrant> ForkSequence(LeaseRef lease, SequenceHandle parent,
                                            const SequenceKey& child) override {
    v1::ForkSequenceRequest request;
    Fill(lease, request.mutable_lease());
    Fill(parent, request.mutable_parent());
    Fill(child, request.mutable_child());
    v1::ForkSequenceResponse response;
    TS_RETURN_IF_ERROR(Call(&v1::KvStore::Stub::ForkSequence, request, &response));
    return ParseGrant(response.grant());
  }

  absl::StatusOr<std::vector<PageId>> ReservePages(LeaseRef lease, SequenceHandle sequence,
                                                   int64_t count) override {
    auto request = OnSequence<v1::ReservePagesRequest>(lease, sequence);
    request.set_count(count);
    v1::ReservePagesResponse response;
    TS_RETURN_IF_ERROR(Call(&v1::KvStore::Stub::ReservePages, request, &response));
    std::vector<PageId> pages;
    for (const uint32_t page : response.pages()) pages.push_back(PageId{page});
    return pages;
  }

  absl::Status SealPages(LeaseRef lease, SequenceHandle sequence, int64_t count,
                         PageOrigin origin) override {
    auto request = OnSequence<v1::SealPagesRequest>(lease, sequence);
    request.set_count(count);
    request.set_origin(ToProto(origin));
    v1::SealPagesResponse response;
    return Call(&v1::KvStore::Stub::SealPages, request, &response, count);
  }

  absl::Status VerifyPages(LeaseRef lease, SequenceHandle sequence, int64_t first,
                           int64_t count) override {
    auto request = OnSequence<v1::VerifyPagesRequest>(lease, sequence);
    request.set_first(first);
    request.set_count(count);
    v1::VerifyPagesResponse response;
    return Call(&v1::KvStore::Stub::VerifyPages, request, &response, count);
  }

  absl::Status DetachSequence(LeaseRef lease, SequenceHandle sequence) override {
    v1::DetachSequenceResponse response;
    return Call(&v1::KvStore::Stub::DetachSequence,
                OnSequence<v1::DetachSequenceRequest>(lease, sequence), &response);
  }

  absl::Status CloseSequence(LeaseRef lease, SequenceHandle sequence) override {
    v1::CloseSequenceResponse response;
    return Call(&v1::KvStore::Stub::CloseSequence,
                OnSequence<v1::CloseSequenceRequest>(lease, sequence), &response);
  }

  absl::Status RemoveSequence(LeaseRef lease, const SequenceKey& key) override {
    v1::RemoveSequenceRequest request;
    Fill(lease, request.mutable_lease());
    Fill(key, request.mutable_key());
    v1::RemoveSequenceResponse response;
    return Call(&v1::KvStore::Stub::RemoveSequence, request, &response);
  }

  absl::StatusOr<std::vector<ExactOutput>> AttendExactly(LeaseRef lease,
                                                         const ExactCall& call) override {
    v1::AttendExactlyRequest request;
    Fill(lease, request.mutable_lease());
    Fill(call, &request);
    v1::AttendExactlyResponse response;
    TS_RETURN_IF_ERROR(
        Call(&v1::KvStore::Stub::AttendExactly, request, &response, call.sealed_pages));
    return ParseExactAnswers(response);
  }

  absl::StatusOr<StoreStats> Stats(LeaseRef lease) override {
    v1::GetStatsRequest request;
    Fill(lease, request.mutable_lease());
    v1::GetStatsResponse response;
    TS_RETURN_IF_ERROR(Call(&v1::KvStore::Stub::GetStats, request, &response));
    return ParseStats(response);
  }

 private:
  template <typename Request>
  static Request OnSequence(LeaseRef lease, SequenceHandle sequence) {
    Request request;
    Fill(lease, request.mutable_lease());
    Fill(sequence, request.mutable_sequence());
    return request;
  }

  // One call, with a deadline that grows with the pages it has to read.
  template <typename Request, typename Response>
  absl::Status Call(grpc::Status (v1::KvStore::Stub::*method)(grpc::ClientContext*, const Request&,
                                                              Response*),
                    const Request& request, Response* response, int64_t pages = 0) {
    constexpr int64_t kMostPages = 1 << 20;  // the store refuses what is out of range
    const int64_t timeout_ms = options_.call_timeout_ms +
                               options_.page_timeout_ms * std::clamp<int64_t>(pages, 0, kMostPages);
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(timeout_ms));
    return FromGrpc((stub_.get()->*method)(&context, request, response));
  }

  const GrpcKvControlOptions options_;
  const std::unique_ptr<v1::KvStore::Stub> stub_;
};

}  // namespace

std::unique_ptr<KvControl> MakeGrpcKvControl(const GrpcKvControlOptions& options) {
  return std::make_unique<GrpcKvControl>(
      options, grpc::CreateChannel(options.address, grpc::InsecureChannelCredentials()));
}

}  // namespace tailor
