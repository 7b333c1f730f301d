// Selections whose query is not there yet. A thread that enqueues a device's work promises one and
// learns at once where its rows will lie, so that the ops that read them can be enqueued before
// anybody has selected; another thread posts it when the device has written the query.
// docs/decisions/0006-doorbell.md.
//
// Promise: one thread, the client's. Post, Ended and Finish: one thread at a time, any. Both end
// before the client does.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "kvstore/client/kv_client.h"

namespace tailor {

struct PromisedSelect {
  SelectCall call;      // without q
  uint32_t slot = 0;    // where the store will put the answer
  SelectedRows answer;  // the sizes hold now, the contents once Finish was Ok
};

struct PostedSelect {
  uint64_t ticket = 0;
  int64_t deadline_ns = 0;  // MonotonicNowNs; 0: no attempt yet
};

class PromisedSelects {
 public:
  virtual ~PromisedSelects() = default;

  // What of this process's memory answers of the open pool may lie in: to be mapped for a device.
  // Ranges start on pages and stay while the client lives.
  virtual std::vector<std::span<std::byte>> AnswerMemory() const = 0;

  // From the first promise on the client refuses PostSelect: its answers would fall into promised
  // slots. Errors: InvalidArgument, FailedPrecondition (no pool is open).
  virtual absl::StatusOr<PromisedSelect> Promise(const SelectCall& call) = 0;

  // In the order of the promises; one that is never posted may be left out. The answer's slot is
  // written from now on: whoever reads the rows of the promise that had it before must have ended.
  // Never blocks; the first attempt sets posted->deadline_ns. Errors: ResourceExhausted (the slot's
  // earlier selection is still unanswered: try again), DeadlineExceeded (the last attempt was too
  // late), InvalidArgument (too many queries), Unavailable (the store is gone), Internal (a corrupt
  // ring).
  virtual absl::Status Post(const PromisedSelect& promise, std::span<const float> q,
                            PostedSelect* posted) = 0;
  // Whether Finish has a result: the answer is there, its deadline has passed, or the store is
  // gone.
  virtual bool Ended(const PostedSelect& posted) const = 0;
  // Ok: promise.answer holds what was asked for. Errors: as KvClient::FinishSelect.
  virtual absl::Status Finish(const PromisedSelect& promise, const PostedSelect& posted) = 0;
};

}  // namespace tailor
