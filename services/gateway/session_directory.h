// The gateway's durable memory: sessions and their transcripts in SQLite (WAL). Each entry keeps
// the exact token ids it added to the history, so a history is never tokenized twice.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/types.h"

struct sqlite3;

namespace tailor {

enum class EntryRole : int { kSystem = 1, kUser = 2, kAssistant = 3, kDocument = 4 };

// One message of a transcript, in order.
struct SessionEntry {
  EntryRole role = EntryRole::kUser;
  std::string name;  // of a document
  std::string text;
  std::vector<TokenId> tokens;  // what it added to the history; a document's come with the message
                                // that reads it
  int64_t token_count = 0;      // a document's own; of other entries, what they added
};

enum class SessionAttention : int { kDefault = 0, kHybrid = 1, kFull = 2 };

struct SessionRecord {
  std::string id;
  std::string title;
  std::string system;  // empty: the model's default
  SessionAttention attention = SessionAttention::kDefault;
  std::string parent_id;
  int64_t created_unix_ms = 0, updated_unix_ms = 0;
  // Filled on reading:
  int64_t tokens = 0;         // of the history
  int64_t unread_tokens = 0;  // of the documents since the last message
  int32_t entries = 0;
  std::vector<std::string> documents;
};

// How much a committed turn survives.
enum class Durability {
  kProcess,  // the death of this process; faster
  kPower,    // also a power cut: every commit waits for the disk
};

// Where a page of a list ends. Neither part ever changes for a session, so that every session that
// was there all the time is listed exactly once, whatever happens between two pages.
struct SessionCursor {
  int64_t created_unix_ms = 0;
  std::string id;
};

// Thread-safe. Every write is one transaction: after an error nothing of it is there. One process
// at a time has the file: two gateways would each continue a session from what it was before the
// other's turn.
class SessionDirectory {
 public:
  // Errors name the file: FailedPrecondition (of another program, or another schema version),
  // DataLoss (not a database, or damaged), Unavailable (cannot be opened, or another process has
  // it).
  static absl::StatusOr<std::unique_ptr<SessionDirectory>> Open(const std::filesystem::path& path,
                                                                Durability durability);
  ~SessionDirectory();

  absl::Status Create(const SessionRecord& session);         // AlreadyExists
  absl::StatusOr<SessionRecord> Get(const std::string& id);  // NotFound
  // The newest first, from behind `after`.
  absl::StatusOr<std::vector<SessionRecord>> List(int32_t limit,
                                                  const std::optional<SessionCursor>& after);
  absl::StatusOr<std::vector<SessionEntry>> Entries(const std::string& id);  // NotFound
  // Appends entries and marks the session used. NotFound.
  absl::Status Append(const std::string& id, const std::vector<SessionEntry>& entries);
  // A copy of `parent` with all its entries under the id of `child`. NotFound, AlreadyExists.
  absl::Status Fork(const std::string& parent, const SessionRecord& child);
  absl::Status Delete(const std::string& id);  // NotFound

 private:
  explicit SessionDirectory(sqlite3* database) : database_(database) {}
  absl::Status SetUp(Durability durability);
  absl::Status CreateOrCheckSchema();

  std::mutex mutex_;
  sqlite3* const database_;  // guarded by mutex_
};

}  // namespace tailor
