// The calls we take from cuBLASLt against the library of this machine. Opening it takes a tenth of
// a second and 200 MB.
#include "common/cuda/cublas_lt.h"

#include <dlfcn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tailor {
namespace {

using ::testing::HasSubstr;

TEST(CublasLtTest, TheLibraryOfThisMachineHasEveryCallAndOurMajorVersion) {
  const std::string name = CublasLtApi::LibraryName();
  if (dlopen(name.c_str(), RTLD_LAZY | RTLD_LOCAL) == nullptr) GTEST_SKIP() << dlerror();
  const auto api = CublasLtApi::Load(name);
  ASSERT_TRUE(api.ok()) << api.status();
  EXPECT_EQ(api->GetVersion() / 10000, size_t{CublasLtApi::kMajor});
}

// What needs no device works, so the attributes that worker/ops/cuda/blas_lt.cc sets are held to
// the library's own idea of their sizes; a handle is there, or the reason.
TEST(CublasLtTest, WithoutADeviceDescriptorsTakeOurAttributes) {
  const auto api = CublasLtApi::Load(CublasLtApi::LibraryName());
  if (!api.ok()) GTEST_SKIP() << api.status();
  const auto desc = MakeMatmulDesc(*api);
  const auto preference = MakePreference(*api);
  ASSERT_TRUE(desc.ok() && preference.ok());
  const int32_t transposed = CUBLAS_OP_T;
  for (const auto side : {CUBLASLT_MATMUL_DESC_TRANSA, CUBLASLT_MATMUL_DESC_TRANSB}) {
    EXPECT_EQ(api->MatmulDescSetAttribute(desc->get(), side, &transposed, sizeof(transposed)),
              CUBLAS_STATUS_SUCCESS);
  }
  const uint64_t bytes = 1 << 20;
  EXPECT_EQ(api->MatmulPreferenceSetAttribute(
                preference->get(), CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes, sizeof(bytes)),
            CUBLAS_STATUS_SUCCESS);
  for (const auto attribute :
       {CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
    const uint32_t value = attribute == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK ? 0 : 16;
    EXPECT_EQ(
        api->MatmulPreferenceSetAttribute(preference->get(), attribute, &value, sizeof(value)),
        CUBLAS_STATUS_SUCCESS)
        << attribute;
  }
  EXPECT_TRUE(MakeLayout(*api, CUDA_R_16BF, 64, 32, 64).ok());
  const auto handle = MakeHandle(*api);
  if (!handle.ok()) {
    EXPECT_THAT(std::string(handle.status().message()),
                HasSubstr("cublasLtCreate: CUBLAS_STATUS_"));
  }
}

TEST(CublasLtTest, AMissingFileIsUnavailableAndNamed) {
  const auto api = CublasLtApi::Load("/nowhere/libcublasLt.so");
  EXPECT_EQ(api.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(api.status().message()), HasSubstr("/nowhere/libcublasLt.so"));
}

TEST(CublasLtTest, ALibraryWithoutItsCallsIsUnavailableAndTheFirstIsNamed) {
  const auto api = CublasLtApi::Load("libm.so.6");
  EXPECT_EQ(api.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(api.status().message(), "libm.so.6 has no cublasLtCreate");
}

}  // namespace
}  // namespace tailor
