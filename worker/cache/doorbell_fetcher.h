// Selector `store` where a device keeps the queries: they go to the store without the host waiting
// for the stream, and the stream waits for the rows. Take announces rows that are not there yet:
// ops enqueued after it find them, the host only after Settle.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "worker/cache/doorbell_line.h"
#include "worker/cache/fetcher.h"
#include "worker/policy/layer_policy.h"

namespace tailor {

// A line between `backend` and `store`, with the answers' memory mapped for the device. Null where
// the policy needs none, or, with the reason in the log, where one of the two has none to offer:
// MakeStoreFetcher then. The pool is open.
std::unique_ptr<DoorbellLine> OpenDoorbellLine(Backend* backend, KvClient* store,
                                               const LayerPolicy& policy, int64_t query_floats);

// `line` outlives the fetcher.
std::unique_ptr<RowFetcher> MakeDoorbellFetcher(DoorbellLine* line, const SelectParams& params,
                                                std::vector<int32_t> layer_top_k = {});

}  // namespace tailor
