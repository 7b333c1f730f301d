#include "services/status_grpc.h"

#include <string>

#include "absl/strings/cord.h"

namespace tailor {

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  std::string details;
  if (const auto payload = status.GetPayload(kStatusDetailsUrl); payload.has_value()) {
    details = std::string(*payload);
  }
  return {static_cast<grpc::StatusCode>(status.raw_code()), std::string(status.message()), details};
}

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  absl::Status result(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
  if (!status.error_details().empty()) {
    result.SetPayload(kStatusDetailsUrl, absl::Cord(status.error_details()));
  }
  return result;
}

}  // namespace tailor
