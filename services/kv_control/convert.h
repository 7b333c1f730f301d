// kvstore.proto <-> the types of kvstore/client. Parsing checks ranges: what is returned fits its
// type and keeps to the limits that the .proto states; what it means is the page store's to judge.
#pragma once

#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "kvstore/client/kv_client.h"
#include "kvstore/client/kv_control.h"
#include "tailor/v1/kvstore.pb.h"

namespace tailor {

inline constexpr int kMaxKeyBytes = 256;           // of a tenant or a sequence name
inline constexpr int kMaxHistoryTokens = 1 << 20;  // of OpenSequence

LeaseRef ParseLease(const v1::Lease& lease);
SequenceHandle ParseHandle(const v1::SequenceHandle& handle);
absl::StatusOr<SequenceKey> ParseKey(const v1::SequenceKey& key);
absl::StatusOr<PoolSpec> ParsePoolSpec(const v1::OpenPoolRequest& request);
absl::StatusOr<PageOrigin> ParseOrigin(v1::PageOrigin origin);
absl::StatusOr<std::vector<TokenId>> ParseHistory(const v1::OpenSequenceRequest& request);
SlottedGrant ParseGrant(const v1::SequenceGrant& grant);
absl::StatusOr<ExactCall> ParseExactCall(const v1::AttendExactlyRequest& request);
std::vector<ExactOutput> ParseExactAnswers(const v1::AttendExactlyResponse& response);
StoreStats ParseStats(const v1::GetStatsResponse& response);

void Fill(LeaseRef lease, v1::Lease* out);
void Fill(SequenceHandle handle, v1::SequenceHandle* out);
void Fill(const SequenceKey& key, v1::SequenceKey* out);
void Fill(const PoolSpec& spec, v1::OpenPoolRequest* out);
void Fill(const SlottedGrant& grant, v1::SequenceGrant* out);
void Fill(const ExactCall& call, v1::AttendExactlyRequest* out);
void Fill(const std::vector<ExactOutput>& answers, v1::AttendExactlyResponse* out);
void Fill(const StoreStats& stats, v1::GetStatsResponse* out);
v1::PageOrigin ToProto(PageOrigin origin);

}  // namespace tailor
