#include "worker/cache/doorbell_line.h"

#include <sys/prctl.h>

#include <chrono>
#include <utility>

#include "common/shm/futex.h"
#include "common/status.h"

namespace tailor {
namespace {

constexpr int64_t kNsPerUs = 1000, kNsPerMs = 1'000'000;

absl::Status Between(const char* what, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(what, " is ", value, ", limit ", low, " to ", high));
}

}  // namespace

absl::Status DoorbellOptions::Validate() const {
  TS_RETURN_IF_ERROR(Between("spin_us", spin_us, 0, 1'000'000));
  TS_RETURN_IF_ERROR(Between("nap_us", nap_us, 1, 1'000'000));
  return Between("ring_deadline_ms", ring_deadline_ms, 1, 3'600'000);
}

absl::StatusOr<std::unique_ptr<DoorbellLine>> DoorbellLine::Make(DoorbellStream* stream,
                                                                 PromisedSelects* store,
                                                                 int64_t query_floats,
                                                                 const DoorbellOptions& options) {
  TS_RETURN_IF_ERROR(options.Validate());
  TS_ASSIGN_OR_RETURN(const std::span<std::byte> memory,
                      stream->Shared(DoorbellMemory::Bytes(query_floats)));
  return std::unique_ptr<DoorbellLine>(
      new DoorbellLine(stream, store, DoorbellMemory(memory, query_floats), options));
}

DoorbellLine::DoorbellLine(DoorbellStream* stream, PromisedSelects* store, DoorbellMemory memory,
                           const DoorbellOptions& options)
    : stream_(stream), store_(store), memory_(memory), options_(options), ringer_([this] {
        RingerLoop();
      }) {}

DoorbellLine::~DoorbellLine() {
  {
    const std::lock_guard lock(mutex_);
    stopping_.store(true, std::memory_order_relaxed);
    news_.store(true, std::memory_order_release);
  }
  wake_.notify_one();
  ringer_.join();
}

absl::StatusOr<DoorbellLine::Posted> DoorbellLine::Post(const std::shared_ptr<Account>& account,
                                                        const SelectCall& call,
                                                        std::span<const float> device_q) {
  if (static_cast<int64_t>(device_q.size()) > memory_.query_floats()) {
    return absl::InvalidArgumentError(absl::StrCat("query of ", device_q.size(),
                                                   " floats, the doorbell has room for ",
                                                   memory_.query_floats()));
  }
  // The query of a post that nobody waits for yet may still be unread: its slot is taken.
  if (!unawaited_.empty() && last_number_ + 1 - unawaited_.begin()->first >= kDoorbellSlots) {
    return absl::ResourceExhaustedError(
        absl::StrCat("doorbell: ", kDoorbellSlots, " posts wait for their layers"));
  }
  TS_ASSIGN_OR_RETURN(PromisedSelect promise, store_->Promise(call));
  const uint64_t number = ++last_number_;
  const Posted posted = {.number = number, .answer = promise.answer};
  {
    const std::lock_guard lock(mutex_);
    ++account->under_way;
    inbox_.push_back({.number = number,
                      .account = account,
                      .promise = std::move(promise),
                      .q_floats = device_q.size(),
                      .ring_deadline_ns = MonotonicNowNs() + options_.ring_deadline_ms * kNsPerMs,
                      .posted = {},
                      .outcome = {}});
    news_.store(true, std::memory_order_release);  // pairs with the exchange in WaitForJobs
  }
  wake_.notify_one();
  unawaited_[number] = account.get();
  stream_->Ring(device_q, memory_, number);
  return posted;
}

void DoorbellLine::Await(uint64_t number) {
  TS_CHECK(unawaited_.erase(number) == 1);
  stream_->Await(memory_, number);
}

absl::Status DoorbellLine::Settle(Account& account) {
  std::unique_lock lock(mutex_);
  released_.wait(lock, [&] { return account.under_way == 0; });
  account.over.store(false, std::memory_order_relaxed);
  return std::exchange(account.failure, absl::OkStatus());
}

void DoorbellLine::Abandon(Account& account) {
  {
    const std::lock_guard lock(mutex_);
    account.over.store(true, std::memory_order_relaxed);
  }
  (void)Settle(account);  // nobody asks how it ended
  std::erase_if(unawaited_, [&](const auto& post) { return post.second == &account; });
}

bool DoorbellLine::IsOver(const Job& job) const {
  return job.account->over.load(std::memory_order_relaxed) ||
         stopping_.load(std::memory_order_relaxed);
}

void DoorbellLine::RingerLoop() {
  // Naps of 20 us instead of the usual 70. Where it is refused they are longer.
  (void)::prctl(PR_SET_TIMERSLACK, 1000UL);
  int64_t last_news_ns = MonotonicNowNs();
  while (WaitForJobs()) {
    const bool posted = PostNext(), released = ReleaseOldest();
    if (posted || released) {
      last_news_ns = MonotonicNowNs();
    } else {
      Pause(last_news_ns);
    }
  }
}

bool DoorbellLine::WaitForJobs() {
  if (!jobs_.empty() && !news_.exchange(false, std::memory_order_acquire)) return true;
  std::unique_lock lock(mutex_);
  if (jobs_.empty()) {
    wake_.wait(lock,
               [this] { return !inbox_.empty() || stopping_.load(std::memory_order_relaxed); });
  }
  for (Job& job : inbox_) jobs_.push_back(std::move(job));
  inbox_.clear();
  return !jobs_.empty();
}

bool DoorbellLine::PostNext() {
  if (posted_jobs_ == jobs_.size()) return false;
  Job& job = jobs_[posted_jobs_];
  if (IsOver(job)) {
    job.outcome = absl::CancelledError("doorbell: nobody waits for this selection");
  } else if (memory_.words().rung.load(std::memory_order_acquire) >= job.number) {
    const std::span<const float> query(memory_.query(job.number), job.q_floats);
    const absl::Status posted = store_->Post(job.promise, query, &job.posted);
    if (absl::IsResourceExhausted(posted)) return false;  // once an earlier one is answered
    if (!posted.ok()) job.outcome = posted;
  } else if (MonotonicNowNs() >= job.ring_deadline_ns) {
    job.outcome = absl::DeadlineExceededError(absl::StrCat(
        "doorbell: the device did not ring within ", options_.ring_deadline_ms, " ms"));
  } else {
    return false;
  }
  ++posted_jobs_;
  return true;
}

bool DoorbellLine::ReleaseOldest() {
  if (posted_jobs_ == 0) return false;
  Job& job = jobs_.front();
  if (job.outcome.has_value()) {
    Release(job, *std::move(job.outcome));
  } else if (IsOver(job)) {
    Release(job, absl::CancelledError("doorbell: nobody waits for this selection"));
  } else if (store_->Ended(job.posted)) {
    Release(job, store_->Finish(job.promise, job.posted));
  } else {
    return false;
  }
  jobs_.pop_front();
  --posted_jobs_;
  return true;
}

void DoorbellLine::Release(Job& job, absl::Status outcome) {
  Account& account = *job.account;
  if (!outcome.ok()) {
    const std::lock_guard lock(mutex_);
    if (account.failure.ok()) account.failure = std::move(outcome);
    account.over.store(true, std::memory_order_relaxed);
  }
  // The rows are there, or the failure is: pairs with the stream's wait.
  memory_.words().answered.store(job.number, std::memory_order_release);
  const std::lock_guard lock(mutex_);
  if (--account.under_way == 0) released_.notify_all();
}

void DoorbellLine::Pause(int64_t last_news_ns) const {
  if (MonotonicNowNs() - last_news_ns < options_.spin_us * kNsPerUs) {
    CpuRelax();
  } else {
    std::this_thread::sleep_for(std::chrono::microseconds(options_.nap_us));
  }
}

}  // namespace tailor
