// Carries selections from a device's stream to the store and back while the host enqueues on:
// docs/decisions/0006-doorbell.md. One a worker; its thread, the ringer, is the only one that looks
// at the doorbell, posts to the store and releases the stream. It releases every post, in the order
// of their numbers and by a deadline, whatever becomes of the store: the stream can't hang.
//
// Post, Await, Settle and Abandon: the thread that enqueues.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <thread>

#include "absl/status/statusor.h"
#include "kvstore/client/promised_selects.h"
#include "worker/ops/doorbell.h"

namespace tailor {

struct DoorbellOptions {
  // How long after the last news the ringer looks without pause. Longer than a layer takes: no nap
  // falls between two rings of a step. Shorter: the core is free while the device is busy
  // elsewhere.
  int64_t spin_us = 500;
  int64_t nap_us = 20;  // between looks after that
  // A device that has not rung so long after the post was enqueued is taken for dead. Longer than
  // any work that may lie before it in the stream.
  int64_t ring_deadline_ms = 60'000;

  absl::Status Validate() const;
};

class DoorbellLine {
 public:
  // What the posts of one sequence share. Made by its owner, kept alive by the posts.
  class Account {
   private:
    friend class DoorbellLine;
    // The first failure since Settle is there, or nobody waits any more: posts end unserved.
    // Written under the line's mutex_, read by the ringer without it.
    std::atomic<bool> over{false};
    absl::Status failure;   // guarded by mutex_
    int64_t under_way = 0;  // guarded by mutex_: posted, not released
  };
  struct Posted {
    uint64_t number = 0;
    SelectedRows answer;  // for ops after Await; for the host after Settle
  };

  // `stream` and `store` outlive the line. query_floats: of the largest query.
  // Errors: InvalidArgument (options), ResourceExhausted.
  static absl::StatusOr<std::unique_ptr<DoorbellLine>> Make(DoorbellStream* stream,
                                                            PromisedSelects* store,
                                                            int64_t query_floats,
                                                            const DoorbellOptions& options);
  ~DoorbellLine();  // releases what is under way

  // Enqueues the ring of `call` with the query at device_q, which the stream reads when it gets
  // there. Errors: those of Promise; ResourceExhausted when kDoorbellSlots posts wait for an Await.
  absl::StatusOr<Posted> Post(const std::shared_ptr<Account>& account, const SelectCall& call,
                              std::span<const float> device_q);
  // Enqueues the wait: ops after it find the rows, or, where Settle will say so, anything.
  void Await(uint64_t number);
  // Waits until all posts of the account are released. Errors: of the first that failed since the
  // last Settle; DeadlineExceeded when the device or the store was late, else as KvClient's.
  absl::Status Settle(Account& account);
  // Ends the account's posts unserved, awaited or not; they are released when this returns.
  void Abandon(Account& account);

 private:
  struct Job {
    uint64_t number = 0;
    std::shared_ptr<Account> account;
    PromisedSelect promise;
    size_t q_floats = 0;
    int64_t ring_deadline_ns = 0;
    PostedSelect posted;
    std::optional<absl::Status> outcome;
  };

  DoorbellLine(DoorbellStream* stream, PromisedSelects* store, DoorbellMemory memory,
               const DoorbellOptions& options);

  // --- the ringer ---
  void RingerLoop();
  bool WaitForJobs();    // false: the line ends, and nothing is under way
  bool PostNext();       // whether a job was posted or given up
  bool ReleaseOldest();  // whether a job was released
  void Release(Job& job, absl::Status outcome);
  void Pause(int64_t last_news_ns) const;
  bool IsOver(const Job& job) const;

  DoorbellStream* const stream_;
  PromisedSelects* const store_;
  const DoorbellMemory memory_;
  const DoorbellOptions options_;
  uint64_t last_number_ = 0;                // enqueuing thread
  std::map<uint64_t, Account*> unawaited_;  // enqueuing thread: posted without an Await so far
  std::deque<Job> jobs_;                    // ringer: under way, oldest first
  size_t posted_jobs_ = 0;                  // ringer: the first so many of jobs_ are posted

  std::atomic<bool> news_{false};  // the inbox or stopping_ changed; pairs with the ringer's look
  std::atomic<bool> stopping_{false};
  std::mutex mutex_;
  std::condition_variable wake_, released_;
  std::deque<Job> inbox_;  // guarded by mutex_
  std::thread ringer_;
};

}  // namespace tailor
