#include "services/status_grpc.h"

#include <gtest/gtest.h>

#include <array>
#include <utility>

#include "absl/strings/cord.h"

namespace tailor {
namespace {

constexpr std::array<std::pair<absl::StatusCode, grpc::StatusCode>, 16> kPairs = {{
    {absl::StatusCode::kCancelled, grpc::CANCELLED},
    {absl::StatusCode::kUnknown, grpc::UNKNOWN},
    {absl::StatusCode::kInvalidArgument, grpc::INVALID_ARGUMENT},
    {absl::StatusCode::kDeadlineExceeded, grpc::DEADLINE_EXCEEDED},
    {absl::StatusCode::kNotFound, grpc::NOT_FOUND},
    {absl::StatusCode::kAlreadyExists, grpc::ALREADY_EXISTS},
    {absl::StatusCode::kPermissionDenied, grpc::PERMISSION_DENIED},
    {absl::StatusCode::kUnauthenticated, grpc::UNAUTHENTICATED},
    {absl::StatusCode::kResourceExhausted, grpc::RESOURCE_EXHAUSTED},
    {absl::StatusCode::kFailedPrecondition, grpc::FAILED_PRECONDITION},
    {absl::StatusCode::kAborted, grpc::ABORTED},
    {absl::StatusCode::kOutOfRange, grpc::OUT_OF_RANGE},
    {absl::StatusCode::kUnimplemented, grpc::UNIMPLEMENTED},
    {absl::StatusCode::kInternal, grpc::INTERNAL},
    {absl::StatusCode::kUnavailable, grpc::UNAVAILABLE},
    {absl::StatusCode::kDataLoss, grpc::DATA_LOSS},
}};

TEST(StatusGrpc, EveryCodeKeepsItsMeaningAndMessageBothWays) {
  for (const auto& [ours, theirs] : kPairs) {
    const grpc::Status sent = ToGrpc(absl::Status(ours, "pages: 4 asked, 1 free of 9"));
    EXPECT_EQ(sent.error_code(), theirs);
    EXPECT_EQ(sent.error_message(), "pages: 4 asked, 1 free of 9");
    const absl::Status back = FromGrpc(sent);
    EXPECT_EQ(back.code(), ours);
    EXPECT_EQ(std::string(back.message()), "pages: 4 asked, 1 free of 9");
  }
}

TEST(StatusGrpc, OkStaysOk) {
  EXPECT_TRUE(ToGrpc(absl::OkStatus()).ok());
  EXPECT_TRUE(FromGrpc(grpc::Status::OK).ok());
}

TEST(StatusGrpc, DetailsSurviveTheRoundTrip) {
  absl::Status status = absl::ResourceExhaustedError("full");
  status.SetPayload(kStatusDetailsUrl, absl::Cord(std::string("\x08\x08\x00z", 4)));
  EXPECT_EQ(ToGrpc(status).error_details(), std::string("\x08\x08\x00z", 4));
  EXPECT_EQ(FromGrpc(ToGrpc(status)), status);
}

}  // namespace
}  // namespace tailor
