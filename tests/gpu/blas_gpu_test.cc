// Products of more than 16 rows by cuBLASLt: on the emulator a fake one that counts and fails
// (emulator/fake_cublaslt.cc), on a device the real one beside our own kernels.
#include <dlfcn.h>

#include <gmock/gmock.h>

#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/gpu/emulator/fake_cublaslt.h"
#include "tests/gpu/gpu_test.h"
#include "tests/worker/ops/weights_in_file.h"
#include "worker/ops/reference.h"

namespace tailor {
namespace {

using ::testing::HasSubstr;

constexpr int kInvalidValue = 7, kNotSupported = 15;  // cublasStatus_t
constexpr DType kRoundedDTypes[] = {DType::kF16,  DType::kBF16, DType::kQ8_0, DType::kQ4_0,
                                    DType::kQ4_1, DType::kQ4_K, DType::kQ6_K};

struct Case {
  FileWeight file;
  HostMatrix x, base;
};
// Of `least` inputs or more.
Case MakeCase(DType dtype, int64_t rows, int64_t outputs, int64_t least) {
  const int64_t cols = WholeBlocks(dtype, least);
  return {RandomWeight(dtype, outputs, cols, 1), RandomMatrix(rows, cols, 2),
          RandomMatrix(rows, outputs, 3)};
}

HostMatrix RunMatMul(Backend& ops, const Case& c) {
  const DeviceMatrix x(ops, c.x), out(ops, c.x.rows, c.file.rows);
  ops.MatMul(x.view(), c.file.Load(ops), out.view());
  return out.Download();
}
HostMatrix RunMatMulAdd(Backend& ops, const Case& c) {
  const DeviceMatrix x(ops, c.x), out(ops, c.base);
  ops.MatMulAdd(x.view(), c.file.Load(ops), out.view());
  return out.Download();
}

HostMatrix Rounded(HostMatrix matrix) {
  for (float& value : matrix.values) value = ToFloat(ToBFloat16(value));
  return matrix;
}

// Products of bf16 are exact in fp32's range here, so only the additions round: n + 2 of the terms'
// magnitudes, and one of the sum with what was there.
void ExpectProducts(const HostMatrix& got, const Case& c, bool add) {
  HostMatrix x = Rounded(c.x), w = Rounded(c.file.Values()), want(x.rows, w.rows),
             size(x.rows, w.rows);
  MatMulRef(x.view(), w.view(), want.view());
  for (HostMatrix* matrix : {&x, &w}) {
    for (float& value : matrix->values) value = std::abs(value);
  }
  MatMulRef(x.view(), w.view(), size.view());
  for (int64_t r = 0; r < want.rows; ++r) {
    for (int64_t o = 0; o < want.cols; ++o) {
      const double base = add ? c.base.row(r)[o] : 0.0, exact = base + want.row(r)[o];
      const double bound =
          static_cast<double>(x.cols + 3) * kEps * size.row(r)[o] + kEps * std::abs(exact) + 1e-30;
      ASSERT_NEAR(got.row(r)[o], exact, bound) << "row " << r << ", output " << o;
    }
  }
}

class FakeBlasTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!TestsRunOn("emulator")) GTEST_SKIP() << "the fake library multiplies the host's memory";
    file_ = TestedModule().parent_path() / "fake_cublaslt.so";
    void* fake = dlopen(file_.c_str(), RTLD_NOW | RTLD_LOCAL);
    ASSERT_NE(fake, nullptr) << dlerror();
    calls_ = reinterpret_cast<decltype(calls_)>(dlsym(fake, "FakeCublasLtCalls"));
    fail_ = reinterpret_cast<decltype(fail_)>(dlsym(fake, "FakeCublasLtFail"));
    reset_ = reinterpret_cast<decltype(reset_)>(dlsym(fake, "FakeCublasLtReset"));
    reset_();
  }
  void TearDown() override {
    if (reset_ != nullptr) reset_();
  }
  std::unique_ptr<Backend> WithLibrary(const std::string& file,
                                       int64_t memory_bytes = kGpuTestMemory) {
    const BlasLibrary library(file);
    auto backend = MakeTestedBackend(memory_bytes);
    TS_CHECK(backend.ok());
    return *std::move(backend);
  }
  std::unique_ptr<Backend> WithFake(int64_t memory_bytes = kGpuTestMemory) {
    return WithLibrary(file_, memory_bytes);
  }
  int Products() { return calls_("cublasLtMatmul"); }

  std::filesystem::path file_;
  decltype(&FakeCublasLtCalls) calls_ = nullptr;
  decltype(&FakeCublasLtFail) fail_ = nullptr;
  decltype(&FakeCublasLtReset) reset_ = nullptr;
};

// A pool that holds what the backend takes at start, and whose share for the library holds 256 rows
// of 1024 inputs and 640 outputs of such.
constexpr int64_t kSmallPool = int64_t{80} << 20;
constexpr int64_t kCols = 1024, kManyOutputs = 650, kManyInputs = 260;

TEST_F(FakeBlasTest, ProductsOfMoreThanSixteenRowsAreTheLibrarysButThoseOfF32) {
  const auto ops = WithFake();
  for (const DType dtype : kAllDTypes) {
    for (const int64_t rows : {1, 16, 17, 40}) {
      const int before = Products();
      RunMatMul(*ops, MakeCase(dtype, rows, 33, 64));
      EXPECT_EQ(Products() - before, rows > 16 && dtype != DType::kF32 ? 1 : 0)
          << std::string(DTypeName(dtype)) << ", " << rows << " rows";
    }
  }
}

TEST_F(FakeBlasTest, OneLayersProductsAreSevenCalls) {
  const auto ops = WithFake();
  const Weight square = RandomWeight(DType::kQ4_1, 64, 64, 1).Load(*ops);
  const DeviceMatrix x(*ops, RandomMatrix(20, 64, 2)), q(*ops, 20, 64), k(*ops, 20, 64),
      v(*ops, 20, 64);
  ops->ProjectQkv(x.view(), square, square, square, q.view(), k.view(), v.view());
  ops->MatMulAdd(x.view(), square, q.view());
  ops->SwiGlu(x.view(), square, square, k.view());
  ops->MatMulAdd(x.view(), square, v.view());
  EXPECT_EQ(Products(), 7);
  EXPECT_EQ(calls_("cublasLtMatmulAlgoGetHeuristic"), 2) << "one for each stride of outputs";
}

// Beside rows of other numbers the fake's heuristic prefers other orders of sums, and a split of K
// first of all (linear_gpu_test compares the bits).
TEST_F(FakeBlasTest, NoSumOverKIsPartedAmongBlocks) {
  const auto ops = WithFake();
  for (const int64_t rows : {17, 128, 300}) RunMatMul(*ops, MakeCase(DType::kBF16, rows, 33, 64));
  EXPECT_EQ(Products(), 3);
  EXPECT_EQ(calls_("a split of K"), 0);
}

TEST_F(FakeBlasTest, EveryFormatIsRoundedToBf16AndNoFurther) {
  const auto ops = WithFake();
  for (const DType dtype : kRoundedDTypes) {
    SCOPED_TRACE(std::string(DTypeName(dtype)));
    const Case c = MakeCase(dtype, 19, 70, 96);
    ExpectProducts(RunMatMul(*ops, c), c, false);
    ExpectProducts(RunMatMulAdd(*ops, c), c, true);
  }
}

TEST_F(FakeBlasTest, WeightsAndInputsBeyondTheirMemoryGoInSlabsAndBlocks) {
  const auto ops = WithFake(kSmallPool);
  for (const DType dtype : {DType::kQ8_0, DType::kF16, DType::kQ4_1, DType::kQ4_K, DType::kQ6_K}) {
    const Case c = MakeCase(dtype, kManyInputs, kManyOutputs, kCols);
    const Weight w = c.file.Load(*ops);
    const DeviceMatrix x(*ops, c.x), out(*ops, c.base);
    const int64_t before = ops->allocated_bytes();
    const int made = Products();
    ops->MatMulAdd(x.view(), w, out.view());
    EXPECT_EQ(Products() - made, 4) << "two slabs times two blocks";
    EXPECT_EQ(ops->allocated_bytes(), before);
    ExpectProducts(out.Download(), c, true);
  }
}

TEST_F(FakeBlasTest, OutputsAtAnyAddressAndStrideAreTheLibrarys) {
  const auto ops = WithFake();
  const Case c = MakeCase(DType::kF16, 20, 64, 32);
  const DeviceBuffer memory = *ops->Allocate(20 * 68 * 4 + 16);
  const DeviceMatrix x(*ops, c.x);
  for (const int64_t offset : {0, 1, 2, 4}) {
    for (const int64_t stride : {64, 65, 68}) {
      const int before = Products();
      ops->MatMul(x.view(), c.file.Load(*ops), {memory.As<float>() + offset, 20, 64, stride});
      EXPECT_EQ(Products() - before, 1) << offset << ", " << stride;
      std::vector<float> all(19 * stride + 64);
      ops->Download(memory.As<float>() + offset, std::as_writable_bytes(std::span(all)));
      HostMatrix got(20, 64);
      for (int64_t r = 0; r < 20; ++r) {
        std::copy_n(all.begin() + r * stride, 64, got.values.begin() + r * 64);
      }
      ExpectProducts(got, c, false);
    }
  }
}

TEST_F(FakeBlasTest, WithoutTheLibraryProductsAreTheKernelsAndTheLogSaysWhy) {
  const Case c = MakeCase(DType::kQ4_1, 20, 33, 64);
  const HostMatrix want = RunMatMul(*WithLibrary("off"), c);
  const std::pair<std::string, std::string> absent[] = {
      {"off", "switched off"},
      {"/nowhere/libcublasLt.so.13", "/nowhere/libcublasLt.so.13"},
      {TestedModule(), "has no cublasLtCreate"}};
  for (const auto& [file, reason] : absent) {
    testing::internal::CaptureStderr();
    const auto ops = WithLibrary(file);
    EXPECT_THAT(testing::internal::GetCapturedStderr(), HasSubstr(reason));
    EXPECT_EQ(RunMatMul(*ops, c).values, want.values) << file;
  }
  EXPECT_EQ(Products(), 0);
}

TEST_F(FakeBlasTest, ALibraryThatCannotStartIsNotUsed) {
  const Case c = MakeCase(DType::kQ4_1, 20, 33, 64);
  for (const char* call :
       {"cublasLtCreate", "cublasLtMatmulDescCreate", "cublasLtMatmulPreferenceCreate",
        "cublasLtMatmulDescSetAttribute", "cublasLtMatmulPreferenceSetAttribute"}) {
    reset_();
    fail_(call, 0, kInvalidValue);
    testing::internal::CaptureStderr();
    const auto ops = WithFake();
    EXPECT_THAT(testing::internal::GetCapturedStderr(),
                HasSubstr(absl::StrCat(call, ": CUBLAS_STATUS_TOLD_BY_A_TEST (status 7)")));
    ExpectProducts(RunMatMul(*ops, c), c, false);
    EXPECT_EQ(Products(), 0) << call;
  }
}

// The second slab fails: the first is added once, the second by gemm.cu, and so is all after it.
TEST_F(FakeBlasTest, AFailureIsSaidOnceAddsNothingTwiceAndEndsTheLibrary) {
  const Case c = MakeCase(DType::kQ8_0, 17, kManyOutputs, kCols);
  for (const char* call :
       {"cublasLtMatmul", "cublasLtMatmulAlgoGetHeuristic", "cublasLtMatrixLayoutCreate"}) {
    SCOPED_TRACE(call);
    reset_();
    const auto ops = WithFake(kSmallPool);
    fail_(call, 1, call == std::string("cublasLtMatmul") ? kNotSupported : kInvalidValue);
    testing::internal::CaptureStderr();
    ExpectProducts(RunMatMulAdd(*ops, c), c, true);
    const int products = Products(), failed = calls_(call);
    ExpectProducts(RunMatMulAdd(*ops, c), c, true);
    const std::string log = testing::internal::GetCapturedStderr();
    const auto first = log.find(call);
    EXPECT_NE(first, log.npos) << log;
    EXPECT_EQ(log.find(call, first + 1), log.npos) << log;
    EXPECT_EQ(Products(), products) << "asked again";
    EXPECT_EQ(calls_(call), failed) << "asked again";
    EXPECT_GT(products + failed, 0);
  }
}

TEST_F(FakeBlasTest, AShapeWithoutAnAlgorithmIsTheKernelsAndOthersStayTheLibrarys) {
  const auto ops = WithFake();
  const Case odd = MakeCase(DType::kQ4_1, 20, 33, 64), even = MakeCase(DType::kQ4_1, 20, 34, 64);
  fail_("cublasLtMatmulAlgoGetHeuristic", 0, kNotSupported);
  testing::internal::CaptureStderr();
  ExpectProducts(RunMatMul(*ops, odd), odd, false);
  EXPECT_THAT(testing::internal::GetCapturedStderr(), HasSubstr("such shapes by its own kernels"));
  EXPECT_EQ(Products(), 0);
  reset_();
  ExpectProducts(RunMatMul(*ops, odd), odd, false);
  EXPECT_EQ(Products(), 0) << "what a shape lacks is remembered";
  ExpectProducts(RunMatMul(*ops, even), even, false);
  EXPECT_EQ(Products(), 1);
}

TEST_F(FakeBlasTest, AnAlgorithmThatDoesNotFitANumberOfRowsGivesWayToOneThatDoes) {
  const auto ops = WithFake();
  fail_("cublasLtMatmulAlgoCheck", 0, kInvalidValue);
  const Case c = MakeCase(DType::kBF16, 20, 33, 64);
  ExpectProducts(RunMatMul(*ops, c), c, false);
  EXPECT_EQ(Products(), 1);
  EXPECT_EQ(calls_("cublasLtMatmulAlgoGetHeuristic"), 2);
}

class BlasGpuTest : public GpuTest {};

// The library that a device's backend opened, or none: the same products as our kernels' within the
// bound of both, and how many batches left a row its bits, which nobody promises.
TEST_F(BlasGpuTest, LibraryAndKernelsAgreeAndTheBitsOfARowAreTold) {
  if (TestsRunOnCpu()) GTEST_SKIP() << "the CPU has one way to multiply";
  if (TestsRunOn("emulator")) GTEST_SKIP() << "what a device's library does is asked";
  int same = 0, asked = 0;
  for (const DType dtype : kRoundedDTypes) {
    SCOPED_TRACE(std::string(DTypeName(dtype)));
    const Case c = MakeCase(dtype, 600, 1000, 2048);
    const HostMatrix many = RunMatMul(*ops_, c);
    ExpectProducts(many, c, false);
    ExpectProducts(RunMatMulAdd(*ops_, c), c, true);
    for (const int64_t rows : {17, 31, 64, 100, 128, 256, 300, 512}) {
      Case part = {c.file, HostMatrix(rows, 2048), HostMatrix(rows, 1000)};
      std::copy_n(c.x.values.begin(), rows * 2048, part.x.values.begin());
      const HostMatrix some = RunMatMul(*ops_, part);
      for (int64_t r = 0; r < rows; ++r) same += some.RowBits(r) == many.RowBits(r) ? 1 : 0;
      asked += static_cast<int>(rows);
    }
  }
  std::fprintf(stderr, "%d of %d rows had the same bits in another batch\n", same, asked);
}

}  // namespace
}  // namespace tailor
