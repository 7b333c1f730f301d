// What a program sees of the CUDA backend where there is none: a reason, never a crash.
#include "worker/ops/cuda_loader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

namespace tailor {
namespace {

using ::testing::HasSubstr;

TEST(CudaLoaderTest, AMissingModuleIsUnavailableAndNamesThePath) {
  const auto module = CudaModule::Open("/nowhere/backend_cuda.so");
  EXPECT_EQ(module.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(module.status().message()), HasSubstr("/nowhere/backend_cuda.so"));
}

TEST(CudaLoaderTest, AFileThatIsNoModuleIsUnavailable) {
  const auto module = CudaModule::Open("/proc/self/exe");
  EXPECT_EQ(module.status().code(), absl::StatusCode::kUnavailable);
}

TEST(CudaLoaderTest, ALibraryWithoutOurExportsIsUnavailableAndNamesTheFirst) {
  std::filesystem::path library;
  for (const char* path : {"/lib/x86_64-linux-gnu/libm.so.6", "/usr/lib64/libm.so.6"}) {
    if (std::filesystem::exists(path)) library = path;
  }
  if (library.empty()) GTEST_SKIP() << "no libm.so.6 where it usually is";
  const auto module = CudaModule::Open(library);
  EXPECT_EQ(module.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(module.status().message()), HasSubstr("has no TailorCudaVersion"));
}

TEST(CudaLoaderTest, WithoutADeviceTheProbeAndTheBackendGiveTheSameReason) {
  const auto module = CudaModule::Open();
  if (!module.ok()) GTEST_SKIP() << module.status();
  const absl::Status probe = module->Probe(0);
  if (probe.ok()) GTEST_SKIP() << "a device answers here";
  EXPECT_EQ(probe.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(probe.message()), HasSubstr("CUDA backend: "));
  EXPECT_EQ(MakeCudaBackend({}).status(), probe);
  EXPECT_EQ(module->MakeBackend({}).status(), probe) << "creation probes by itself";
}

TEST(CudaLoaderTest, ADeviceNumberNoMachineHasIsUnavailable) {
  const auto module = CudaModule::Open();
  if (!module.ok()) GTEST_SKIP() << module.status();
  EXPECT_EQ(module->Probe(1000).code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace tailor
