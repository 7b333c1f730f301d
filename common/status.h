// Error plumbing: three failures, three forms.
//   the outside world  -> absl::Status, passed up with the macros below
//   our own bug        -> TS_CHECK: prints and aborts, in every build
//   hot-path invariant -> TS_DCHECK: checked once at load, free in release builds
#pragma once

#include <cstdio>
#include <cstdlib>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"

#define TS_RETURN_IF_ERROR(expr)                \
  do {                                          \
    absl::Status ts_status_ = (expr);           \
    if (!ts_status_.ok()) return ts_status_;    \
  } while (false)

#define TS_CONCAT_INNER_(a, b) a##b
#define TS_CONCAT_(a, b) TS_CONCAT_INNER_(a, b)
#define TS_ASSIGN_OR_RETURN(lhs, expr) TS_ASSIGN_OR_RETURN_(TS_CONCAT_(ts_or_, __LINE__), lhs, expr)
#define TS_ASSIGN_OR_RETURN_(tmp, lhs, expr)   \
  auto tmp = (expr);                           \
  if (!tmp.ok()) return tmp.status();          \
  lhs = *std::move(tmp)

#define TS_CHECK(condition)                                                                 \
  do {                                                                                      \
    if (!(condition)) {                                                                     \
      std::fprintf(stderr, "%s:%d: check failed: %s\n", __FILE__, __LINE__, #condition);    \
      std::abort();                                                                         \
    }                                                                                       \
  } while (false)

#ifdef NDEBUG
#define TS_DCHECK(condition) \
  do {                       \
    (void)sizeof(condition); \
  } while (false)
#else
#define TS_DCHECK(condition) TS_CHECK(condition)
#endif
