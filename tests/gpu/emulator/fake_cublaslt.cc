// cuBLASLt's calls that our backend makes, from their documentation, on the host: matrices are
// column-major, sums are fp64 within a block of K and fp32 across blocks. Stricter than the
// library: what is not set, not documented or not asked for is refused.
#include "tests/gpu/emulator/fake_cublaslt.h"

#include <cublasLt.h>
#include <dlfcn.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "tests/gpu/emulator/fake_matmul.h"

struct cublasLtContext {
  uint64_t tag;
};

namespace {

using namespace fake_cublaslt;

struct Call {
  int made = 0, fails_from = -1;
  cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
};
std::map<std::string, Call>& Calls() {
  static std::map<std::string, Call> calls;
  return calls;
}
// Counts a call; what it must return at once, or success.
cublasStatus_t Enter(const char* name) {
  Call& call = Calls()[name];
  const int number = call.made++;
  return call.fails_from >= 0 && number >= call.fails_from ? call.status : CUBLAS_STATUS_SUCCESS;
}
#define ENTER(name)                                                             \
  if (const cublasStatus_t told = Enter(name); told != CUBLAS_STATUS_SUCCESS) { \
    return told;                                                                \
  }

template <typename Opaque, typename T>
cublasStatus_t Make(Opaque** out, const T& value) {
  if (out == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  *out = new Opaque(Outside<Opaque>(value));
  return CUBLAS_STATUS_SUCCESS;
}
// Closing twice, or something else, shows as a broken tag.
template <typename Opaque>
cublasStatus_t Close(Opaque* opaque, uint64_t tag) {
  if (opaque == nullptr || opaque->data[0] != tag) return CUBLAS_STATUS_INVALID_VALUE;
  opaque->data[0] = 0;
  delete opaque;
  return CUBLAS_STATUS_SUCCESS;
}

// Sets one attribute from a buffer that must have exactly the size of T.
template <typename T>
cublasStatus_t Set(uint64_t* to, const void* buffer, size_t bytes) {
  if (buffer == nullptr || bytes != sizeof(T)) return CUBLAS_STATUS_INVALID_VALUE;
  T value;
  std::memcpy(&value, buffer, sizeof(value));
  *to = static_cast<uint64_t>(value);
  return CUBLAS_STATUS_SUCCESS;
}

// The stream is backend_emulated.so's, which lies beside this file and is open already.
void Enqueue(cudaStream_t stream, std::function<void()> op) {
  using EnqueueFn = void (*)(cudaStream_t, void (*)(void*), void*);
  static const EnqueueFn enqueue = [] {
    Dl_info self;
    if (dladdr(reinterpret_cast<const void*>(&Enqueue), &self) == 0) std::abort();
    const auto path = std::filesystem::path(self.dli_fname).parent_path() / "backend_emulated.so";
    void* device = dlopen(path.c_str(), RTLD_LAZY | RTLD_NOLOAD);
    return device == nullptr ? nullptr
                             : reinterpret_cast<EnqueueFn>(dlsym(device, "EmulatorEnqueue"));
  }();
  if (enqueue == nullptr) std::abort();
  enqueue(
      stream,
      [](void* taken) {
        const std::unique_ptr<std::function<void()>> run(
            static_cast<std::function<void()>*>(taken));
        (*run)();
      },
      new std::function<void()>(std::move(op)));
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT int FakeCublasLtCalls(const char* call) { return Calls()[call].made; }
EXPORT void FakeCublasLtFail(const char* call, int from, int status) {
  Calls()[call].fails_from = from;
  Calls()[call].status = static_cast<cublasStatus_t>(status);
}
EXPORT void FakeCublasLtReset() { Calls().clear(); }

EXPORT cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  ENTER("cublasLtCreate");
  *handle = new cublasLtContext{kHandleTag};
  return CUBLAS_STATUS_SUCCESS;
}
EXPORT cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  ENTER("cublasLtDestroy");
  delete handle;
  return CUBLAS_STATUS_SUCCESS;
}
EXPORT size_t cublasLtGetVersion() { return CUBLAS_VERSION; }
EXPORT const char* cublasLtGetStatusName(cublasStatus_t) { return "CUBLAS_STATUS_TOLD_BY_A_TEST"; }

EXPORT cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* desc,
                                               cublasComputeType_t compute, cudaDataType_t scale) {
  ENTER("cublasLtMatmulDescCreate");
  return Make(desc, Desc{kDescTag, static_cast<uint64_t>(compute), static_cast<uint64_t>(scale),
                         CUBLAS_OP_N, CUBLAS_OP_N});
}
EXPORT cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
  return Close(desc, kDescTag);
}
EXPORT cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                                     cublasLtMatmulDescAttributes_t attribute,
                                                     const void* buffer, size_t bytes) {
  ENTER("cublasLtMatmulDescSetAttribute");
  if (desc == nullptr || desc->data[0] != kDescTag) return CUBLAS_STATUS_INVALID_VALUE;
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
      return Set<int32_t>(&desc->data[3], buffer, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB:
      return Set<int32_t>(&desc->data[4], buffer, bytes);
    default:
      return CUBLAS_STATUS_NOT_SUPPORTED;
  }
}

EXPORT cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type,
                                                 uint64_t rows, uint64_t cols, int64_t stride) {
  ENTER("cublasLtMatrixLayoutCreate");
  return Make(layout, Layout{kLayoutTag, static_cast<uint64_t>(type), rows, cols,
                             static_cast<uint64_t>(stride)});
}
EXPORT cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  return Close(layout, kLayoutTag);
}

EXPORT cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  ENTER("cublasLtMatmulPreferenceCreate");
  return Make(preference,
              Preference{kPreferenceTag, 0, CUBLASLT_REDUCTION_SCHEME_MASK, 256, 256, 256, 256});
}
EXPORT cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  return Close(preference, kPreferenceTag);
}
EXPORT cublasStatus_t cublasLtMatmulPreferenceSetAttribute(
    cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t attribute,
    const void* buffer, size_t bytes) {
  ENTER("cublasLtMatmulPreferenceSetAttribute");
  if (preference == nullptr || preference->data[0] != kPreferenceTag) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  uint64_t* const data = preference->data;
  switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
      return Set<uint64_t>(&data[1], buffer, bytes);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
      return Set<uint32_t>(&data[2], buffer, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
      return Set<uint32_t>(&data[3], buffer, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
      return Set<uint32_t>(&data[4], buffer, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
      return Set<uint32_t>(&data[5], buffer, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
      return Set<uint32_t>(&data[6], buffer, bytes);
    default:
      return CUBLAS_STATUS_NOT_SUPPORTED;
  }
}

EXPORT cublasStatus_t cublasLtMatmulAlgoGetHeuristic(
    cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
    cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
    cublasLtMatmulPreference_t preference, int wanted, cublasLtMatmulHeuristicResult_t results[],
    int* count) {
  ENTER("cublasLtMatmulAlgoGetHeuristic");
  if (handle == nullptr || handle->tag != kHandleTag || preference == nullptr || wanted <= 0) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  Problem p;
  if (const cublasStatus_t bad = Read(desc, a, b, c, d, &p); bad != CUBLAS_STATUS_SUCCESS) {
    return bad;
  }
  const auto asked = Inside<Preference>(preference);
  if (asked.align_a < 16 || asked.align_b < 16) return CUBLAS_STATUS_NOT_SUPPORTED;
  *count = 0;
  for (const Algorithm& one : Offered(p, asked)) {
    if (*count == wanted) break;
    results[*count] = {};
    results[*count].algo = Outside<cublasLtMatmulAlgo_t>(one);
    results[*count].workspaceSize = one.workspace;
    results[*count].state = one.block > 0 ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
    ++*count;
  }
  return CUBLAS_STATUS_SUCCESS;
}

EXPORT cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              const cublasLtMatmulAlgo_t* algorithm,
                                              cublasLtMatmulHeuristicResult_t* result) {
  ENTER("cublasLtMatmulAlgoCheck");
  Problem p;
  if (const cublasStatus_t bad = Read(desc, a, b, c, d, &p); bad != CUBLAS_STATUS_SUCCESS) {
    return bad;
  }
  if (algorithm->data[0] != kAlgorithmTag) return CUBLAS_STATUS_INVALID_VALUE;
  result->workspaceSize = Inside<Algorithm>(algorithm).workspace;
  return CUBLAS_STATUS_SUCCESS;
}

EXPORT cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(
    const cublasLtMatmulAlgo_t* algorithm, cublasLtMatmulAlgoConfigAttributes_t attribute,
    void* buffer, size_t bytes, size_t* written) {
  if (algorithm->data[0] != kAlgorithmTag || bytes != sizeof(uint32_t)) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  const auto inside = Inside<Algorithm>(algorithm);
  uint32_t value = 0;
  if (attribute == CUBLASLT_ALGO_CONFIG_SPLITK_NUM) {
    value = static_cast<uint32_t>(inside.splits);
  } else if (attribute == CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME) {
    value = static_cast<uint32_t>(inside.scheme);
  } else {
    return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  std::memcpy(buffer, &value, sizeof(value));
  *written = sizeof(value);
  return CUBLAS_STATUS_SUCCESS;
}

EXPORT cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                     const void* alpha, const void* a, cublasLtMatrixLayout_t a_at,
                                     const void* b, cublasLtMatrixLayout_t b_at, const void* beta,
                                     const void* c, cublasLtMatrixLayout_t c_at, void* d,
                                     cublasLtMatrixLayout_t d_at,
                                     const cublasLtMatmulAlgo_t* algorithm, void* workspace,
                                     size_t workspace_bytes, cudaStream_t stream) {
  ENTER("cublasLtMatmul");
  Problem p;
  if (handle == nullptr || handle->tag != kHandleTag || stream == nullptr) {
    return CUBLAS_STATUS_NOT_INITIALIZED;
  }
  if (const cublasStatus_t bad = Read(desc, a_at, b_at, c_at, d_at, &p);
      bad != CUBLAS_STATUS_SUCCESS) {
    return bad;
  }
  if (algorithm == nullptr || algorithm->data[0] != kAlgorithmTag) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  const auto how = Inside<Algorithm>(algorithm);
  if (how.block == 0) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (!Runs(p, how, {a, b}, c, d, workspace, workspace_bytes)) return CUBLAS_STATUS_INVALID_VALUE;
  if (how.splits != 1) ENTER("a split of K");
  // Descriptors and host scalars are read by the call, matrices in stream order.
  const float of_product = *static_cast<const float*>(alpha),
              of_c = *static_cast<const float*>(beta);
  Enqueue(stream, [=] {
    // The workspace is the library's to write: what else lies there is lost.
    std::memset(workspace, 0xff, how.workspace);
    Multiply(p, how.block, of_product, static_cast<const uint16_t*>(a),
             static_cast<const uint16_t*>(b), of_c, static_cast<const float*>(c),
             static_cast<float*>(d));
  });
  return CUBLAS_STATUS_SUCCESS;
}
