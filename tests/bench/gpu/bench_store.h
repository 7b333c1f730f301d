// A KvClient that passes everything on, for measuring: it skips or times the verification of pages
// (17 GB for 128k tokens at every attach), and grants sequences longer than the host's memory by
// repeating pages. A device moves the same bytes for those, and so does PCIe.
#pragma once

#include <chrono>
#include <memory>
#include <set>
#include <utility>

#include "kvstore/client/kv_client.h"

namespace tailor::bench {

class BenchStore final : public KvClient {
 public:
  explicit BenchStore(std::unique_ptr<KvClient> to) : to_(std::move(to)) {}

  // The next OpenSequence's grant lists its pages so many times. The store knows nothing of the
  // repetitions: no selection by it, no seal.
  void RepeatNext(int32_t times) { repeat_next_ = times; }
  void set_verifies(bool verifies) { verifies_ = verifies; }
  double TakeVerifySeconds() { return std::exchange(verify_seconds_, 0.0); }

  absl::StatusOr<PoolView> OpenPool(const PoolSpec& spec) override { return to_->OpenPool(spec); }
  absl::StatusOr<SequenceGrant> OpenSequence(const SequenceKey& key,
                                             std::span<const TokenId> history) override {
    auto grant = to_->OpenSequence(key, history);
    const int32_t times = std::exchange(repeat_next_, 1);
    if (!grant.ok() || times == 1) return grant;
    const std::vector<PageId> once = grant->pages;
    for (int32_t i = 1; i < times; ++i) {
      grant->pages.insert(grant->pages.end(), once.begin(), once.end());
    }
    grant->sealed_pages *= times;
    grant->committed_tokens *= times;
    repeated_.insert(grant->handle.id);
    return grant;
  }
  absl::StatusOr<SequenceGrant> ForkSequence(SequenceHandle parent,
                                             const SequenceKey& child) override {
    return to_->ForkSequence(parent, child);
  }
  absl::StatusOr<std::vector<PageId>> ReservePages(SequenceHandle sequence,
                                                   int64_t count) override {
    return to_->ReservePages(sequence, count);
  }
  absl::Status SealPages(SequenceHandle sequence, int64_t count, PageOrigin origin) override {
    return to_->SealPages(sequence, count, origin);
  }
  absl::Status VerifyPages(SequenceHandle sequence, int64_t first, int64_t count) override {
    if (!verifies_) return absl::OkStatus();
    const auto start = std::chrono::steady_clock::now();
    const absl::Status verified = to_->VerifyPages(sequence, first, count);
    verify_seconds_ +=
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return verified;
  }
  absl::Status DetachSequence(SequenceHandle sequence) override {
    return to_->DetachSequence(sequence);
  }
  absl::Status CloseSequence(SequenceHandle sequence) override {
    repeated_.erase(sequence.id);
    return to_->CloseSequence(sequence);
  }
  absl::Status RemoveSequence(const SequenceKey& key) override { return to_->RemoveSequence(key); }
  absl::StatusOr<std::vector<ExactOutput>> AttendExactly(const ExactCall& call) override {
    return to_->AttendExactly(call);
  }
  absl::StatusOr<StoreStats> Stats() override { return to_->Stats(); }
  absl::Status SetBudget(SequenceHandle sequence, int32_t doublings, int64_t from_token) override {
    return to_->SetBudget(sequence, doublings, from_token);
  }
  absl::Status Commit(SequenceHandle sequence, int64_t tokens) override {
    if (repeated_.contains(sequence.id)) return absl::OkStatus();
    return to_->Commit(sequence, tokens);
  }
  absl::StatusOr<uint64_t> PostSelect(const SelectCall& call) override {
    return to_->PostSelect(call);
  }
  absl::StatusOr<SelectedRows> FinishSelect(uint64_t ticket) override {
    return to_->FinishSelect(ticket);
  }
  PromisedSelects* promised_selects() override { return to_->promised_selects(); }

 private:
  const std::unique_ptr<KvClient> to_;
  int32_t repeat_next_ = 1;
  bool verifies_ = false;
  double verify_seconds_ = 0;
  std::set<uint64_t> repeated_;  // sequences' ids
};

}  // namespace tailor::bench
