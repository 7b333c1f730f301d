// Selectors `sketch` and `device`: the device selects by itself and gathers the rows from the
// store's mapped memory, so no CPU and no wait stands between a layer's query and its attention.
// ALGORITHM §4.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "worker/cache/fetcher.h"

namespace tailor {

// The selector that this backend runs for one that a policy asks: without selection kernels the
// worker itself selects (`inline`), which gives the same tokens.
Selector RunnableSelector(Selector asked, Backend& backend);

// Where the device reads the index of sealed pages.
enum class IndexPlace {
  kSketch,  // a copy in device memory, made when a page is sealed: nothing but rows crosses PCIe
  kStore,   // in place, at every step: the published path, for comparison
};

// Bytes that kSketch keeps of one sealed page, and a row cache of so many rows a layer and KV head.
int64_t SketchPageBytes(const PoolShape& shape);
int64_t RowCacheBytes(const PoolShape& shape, int32_t rows);

// `backend` has device_select(), and its ops can read the pool (Backend::MapHostMemory). The
// fetcher's queries are device memory, and so are the rows and tokens it gives. A row that fails
// its check shows in Settle, not in Take. row_cache_rows: LayerPolicy's.
std::unique_ptr<RowFetcher> MakeDeviceFetcher(Backend* backend, const PoolShape& shape,
                                              const SelectParams& params,
                                              std::vector<int32_t> layer_top_k, IndexPlace place,
                                              int32_t row_cache_rows);

}  // namespace tailor
