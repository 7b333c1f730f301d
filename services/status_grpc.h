// absl::Status <-> grpc::Status: the only place where one becomes the other. Codes map 1:1 (both
// have the same numbers, which is tested); messages are kept.
#pragma once

#include <grpcpp/support/status.h>

#include "absl/status/status.h"

namespace tailor {

// A payload of this type URL (a serialized google.rpc.Status) travels as the call's binary details.
inline constexpr char kStatusDetailsUrl[] = "type.googleapis.com/google.rpc.Status";

grpc::Status ToGrpc(const absl::Status& status);
absl::Status FromGrpc(const grpc::Status& status);

}  // namespace tailor
