#include "services/gateway/session_directory.h"

#include <chrono>
#include <cstring>
#include <limits>

#include "common/status.h"
#include "services/gateway/sqlite_statement.h"

namespace tailor {
namespace {

constexpr int64_t kSchemaVersion = 1;
constexpr int64_t kApplicationId = 0x5453'4757;  // "TSGW", in the file's header
constexpr int kBusyTimeoutMs = 1000;             // a gateway that is just ending lets go by then

// Version 1. `tokens` is int32 little-endian.
constexpr const char* kSchema[] = {
    "CREATE TABLE sessions (id TEXT PRIMARY KEY, title TEXT NOT NULL, system TEXT NOT NULL,"
    " attention INTEGER NOT NULL, parent_id TEXT NOT NULL, created_unix_ms INTEGER NOT NULL,"
    " updated_unix_ms INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE INDEX sessions_by_creation ON sessions (created_unix_ms DESC, id)",
    "CREATE TABLE entries (session_id TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,"
    " ordinal INTEGER NOT NULL, role INTEGER NOT NULL, name TEXT NOT NULL, text TEXT NOT NULL,"
    " tokens BLOB NOT NULL, token_count INTEGER NOT NULL,"
    " PRIMARY KEY (session_id, ordinal)) WITHOUT ROWID",
};

static_assert(static_cast<int>(EntryRole::kDocument) == 4);  // in the query
constexpr char kSelectSessions[] =
    "SELECT id, title, system, attention, parent_id, created_unix_ms, updated_unix_ms,"
    " (SELECT COALESCE(SUM(LENGTH(tokens)), 0) / 4 FROM entries WHERE session_id = id),"
    " (SELECT COUNT(*) FROM entries WHERE session_id = id),"
    " (SELECT COALESCE(SUM(token_count), 0) FROM entries WHERE session_id = id AND role = 4 AND "
    "ordinal >"
    "   (SELECT COALESCE(MAX(ordinal), -1) FROM entries WHERE session_id = id AND role <> 4))"
    " FROM sessions ";

int64_t NowUnixMs() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

SessionRecord ReadSession(const SqliteStatement& row) {
  SessionRecord s;
  s.id = row.Text(0);
  s.title = row.Text(1);
  s.system = row.Text(2);
  s.attention = static_cast<SessionAttention>(row.Int(3));
  s.parent_id = row.Text(4);
  s.created_unix_ms = row.Int(5);
  s.updated_unix_ms = row.Int(6);
  s.tokens = row.Int(7);
  s.entries = static_cast<int32_t>(row.Int(8));
  s.unread_tokens = row.Int(9);
  return s;
}

absl::Status ReadDocuments(sqlite3* database, SessionRecord* session) {
  SqliteStatement rows(
      database, "SELECT name FROM entries WHERE session_id = ? AND role = ? ORDER BY ordinal");
  rows.Bind(session->id).Bind(static_cast<int64_t>(EntryRole::kDocument));
  while (rows.Next()) session->documents.push_back(rows.Text(0));
  return rows.status();
}

absl::Status InsertSession(sqlite3* database, const SessionRecord& s) {
  const int64_t now = NowUnixMs();
  const absl::Status inserted =
      SqliteStatement(database, "INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?)")
          .Bind(s.id)
          .Bind(s.title)
          .Bind(s.system)
          .Bind(static_cast<int64_t>(s.attention))
          .Bind(s.parent_id)
          .Bind(now)
          .Bind(now)
          .Run();
  if (absl::IsAlreadyExists(inserted)) {
    return absl::AlreadyExistsError(absl::StrCat("session ", s.id, " exists"));
  }
  return inserted;
}

absl::Status InsertEntry(sqlite3* database, const std::string& id, const SessionEntry& e) {
  return SqliteStatement(database,
                         "INSERT INTO entries VALUES (?1, (SELECT COALESCE(MAX(ordinal), -1) + 1"
                         " FROM entries WHERE session_id = ?1), ?2, ?3, ?4, ?5, ?6)")
      .Bind(id)
      .Bind(static_cast<int64_t>(e.role))
      .Bind(e.name)
      .Bind(e.text)
      .Bind(std::as_bytes(std::span(e.tokens)))
      .Bind(e.token_count)
      .Run();
}

absl::Status Execute(sqlite3* database, const char* sql) {
  return SqliteStatus(sqlite3_exec(database, sql, nullptr, nullptr, nullptr), database, sql);
}

absl::StatusOr<int64_t> ReadInt(sqlite3* database, std::string_view sql) {
  SqliteStatement row(database, sql);
  if (row.Next()) return row.Int(0);
  TS_RETURN_IF_ERROR(row.status());
  return absl::InternalError(absl::StrCat(std::string(sql), " gave no row"));
}

absl::StatusOr<bool> Exists(sqlite3* database, const std::string& id) {
  SqliteStatement row(database, "SELECT 1 FROM sessions WHERE id = ?");
  row.Bind(id);
  if (row.Next()) return true;
  TS_RETURN_IF_ERROR(row.status());
  return false;
}

// Rolls back unless Commit succeeded.
class Transaction {
 public:
  explicit Transaction(sqlite3* database) : database_(database) {
    begun_ = Execute(database_, "BEGIN IMMEDIATE");
  }
  ~Transaction() {
    if (begun_.ok() && !done_) (void)Execute(database_, "ROLLBACK");
  }
  const absl::Status& begun() const { return begun_; }
  absl::Status Commit() {
    const absl::Status committed = Execute(database_, "COMMIT");
    done_ = committed.ok();
    return committed;
  }

 private:
  sqlite3* database_;
  absl::Status begun_;
  bool done_ = false;
};

absl::Status NoSession(const std::string& id) {
  return absl::NotFoundError(absl::StrCat("there is no session ", id));
}

}  // namespace

absl::StatusOr<std::unique_ptr<SessionDirectory>> SessionDirectory::Open(
    const std::filesystem::path& path, Durability durability) {
  std::error_code ignored;
  if (path.has_parent_path()) std::filesystem::create_directories(path.parent_path(), ignored);
  sqlite3* database = nullptr;
  const int code =
      sqlite3_open_v2(path.c_str(), &database,
                      SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_FULLMUTEX, nullptr);
  std::unique_ptr<SessionDirectory> directory(new SessionDirectory(database));
  absl::Status opened = SqliteStatus(code, database, "open");
  if (opened.ok()) opened = directory->SetUp(durability);
  if (opened.ok()) return directory;
  const bool busy = (sqlite3_errcode(database) & 0xff) == SQLITE_BUSY;
  return absl::Status(opened.code(), absl::StrCat("session database ", path.string(), ": ",
                                                  busy ? "another process has it open"
                                                       : std::string(opened.message())));
}

SessionDirectory::~SessionDirectory() { sqlite3_close_v2(database_); }

absl::Status SessionDirectory::SetUp(Durability durability) {
  sqlite3_busy_timeout(database_, kBusyTimeoutMs);
  TS_RETURN_IF_ERROR(Execute(database_, "PRAGMA locking_mode = EXCLUSIVE"));
  TS_RETURN_IF_ERROR(Execute(database_, "PRAGMA foreign_keys = ON"));
  // Looks before it changes anything: the file may be another program's.
  TS_RETURN_IF_ERROR(CreateOrCheckSchema());
  TS_RETURN_IF_ERROR(Execute(database_, durability == Durability::kPower
                                            ? "PRAGMA synchronous = FULL"
                                            : "PRAGMA synchronous = NORMAL"));
  SqliteStatement mode(database_, "PRAGMA journal_mode = WAL");
  if (mode.Next() && mode.Text(0) == "wal") return absl::OkStatus();
  TS_RETURN_IF_ERROR(mode.status());
  return absl::UnavailableError("its file system does not allow write-ahead logging");
}

absl::Status SessionDirectory::CreateOrCheckSchema() {
  Transaction transaction(database_);
  TS_RETURN_IF_ERROR(transaction.begun());
  TS_ASSIGN_OR_RETURN(const int64_t objects,
                      ReadInt(database_, "SELECT COUNT(*) FROM sqlite_master"));
  if (objects == 0) {
    for (const char* sql : kSchema) TS_RETURN_IF_ERROR(Execute(database_, sql));
    TS_RETURN_IF_ERROR(
        Execute(database_, absl::StrCat("PRAGMA application_id = ", kApplicationId).c_str()));
    TS_RETURN_IF_ERROR(
        Execute(database_, absl::StrCat("PRAGMA user_version = ", kSchemaVersion).c_str()));
    return transaction.Commit();
  }
  TS_ASSIGN_OR_RETURN(const int64_t application, ReadInt(database_, "PRAGMA application_id"));
  if (application != kApplicationId) {
    return absl::FailedPreconditionError(absl::StrCat("belongs to another program: application id ",
                                                      application, ", ours is ", kApplicationId));
  }
  TS_ASSIGN_OR_RETURN(const int64_t version, ReadInt(database_, "PRAGMA user_version"));
  if (version != kSchemaVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("schema is ", version, ", this gateway reads ", kSchemaVersion));
  }
  return transaction.Commit();
}

absl::Status SessionDirectory::Create(const SessionRecord& session) {
  const std::lock_guard lock(mutex_);
  return InsertSession(database_, session);
}

absl::StatusOr<SessionRecord> SessionDirectory::Get(const std::string& id) {
  const std::lock_guard lock(mutex_);
  SqliteStatement row(database_, absl::StrCat(kSelectSessions, "WHERE id = ?"));
  row.Bind(id);
  if (!row.Next()) {
    TS_RETURN_IF_ERROR(row.status());
    return NoSession(id);
  }
  SessionRecord session = ReadSession(row);
  TS_RETURN_IF_ERROR(ReadDocuments(database_, &session));
  return session;
}

absl::StatusOr<std::vector<SessionRecord>> SessionDirectory::List(
    int32_t limit, const std::optional<SessionCursor>& after) {
  const SessionCursor from = after.value_or(
      SessionCursor{.created_unix_ms = std::numeric_limits<int64_t>::max(), .id = {}});
  const std::lock_guard lock(mutex_);
  SqliteStatement rows(
      database_, absl::StrCat(kSelectSessions,
                              "WHERE created_unix_ms < ?1 OR (created_unix_ms = ?1 AND id > ?2)"
                              " ORDER BY created_unix_ms DESC, id LIMIT ?3"));
  rows.Bind(from.created_unix_ms).Bind(from.id).Bind(int64_t{limit});
  std::vector<SessionRecord> sessions;
  while (rows.Next()) sessions.push_back(ReadSession(rows));
  TS_RETURN_IF_ERROR(rows.status());
  for (SessionRecord& session : sessions) TS_RETURN_IF_ERROR(ReadDocuments(database_, &session));
  return sessions;
}

absl::StatusOr<std::vector<SessionEntry>> SessionDirectory::Entries(const std::string& id) {
  const std::lock_guard lock(mutex_);
  TS_ASSIGN_OR_RETURN(const bool exists, Exists(database_, id));
  if (!exists) return NoSession(id);
  SqliteStatement rows(database_,
                       "SELECT role, name, text, tokens, token_count FROM entries"
                       " WHERE session_id = ? ORDER BY ordinal");
  rows.Bind(id);
  std::vector<SessionEntry> entries;
  while (rows.Next()) {
    SessionEntry& e = entries.emplace_back();
    e.role = static_cast<EntryRole>(rows.Int(0));
    e.name = rows.Text(1);
    e.text = rows.Text(2);
    const std::span<const std::byte> blob = rows.Blob(3);
    if (blob.size() % sizeof(TokenId) != 0) {
      return absl::DataLossError(absl::StrCat("session ", id, " has a damaged entry"));
    }
    e.tokens.resize(blob.size() / sizeof(TokenId));
    if (!blob.empty()) std::memcpy(e.tokens.data(), blob.data(), blob.size());
    e.token_count = rows.Int(4);
  }
  TS_RETURN_IF_ERROR(rows.status());
  return entries;
}

absl::Status SessionDirectory::Append(const std::string& id,
                                      const std::vector<SessionEntry>& entries) {
  const std::lock_guard lock(mutex_);
  Transaction transaction(database_);
  TS_RETURN_IF_ERROR(transaction.begun());
  TS_RETURN_IF_ERROR(
      SqliteStatement(database_, "UPDATE sessions SET updated_unix_ms = ? WHERE id = ?")
          .Bind(NowUnixMs())
          .Bind(id)
          .Run());
  if (sqlite3_changes(database_) == 0) return NoSession(id);
  for (const SessionEntry& entry : entries) {
    TS_RETURN_IF_ERROR(InsertEntry(database_, id, entry));
  }
  return transaction.Commit();
}

absl::Status SessionDirectory::Fork(const std::string& parent, const SessionRecord& child) {
  const std::lock_guard lock(mutex_);
  Transaction transaction(database_);
  TS_RETURN_IF_ERROR(transaction.begun());
  TS_ASSIGN_OR_RETURN(const bool exists, Exists(database_, parent));
  if (!exists) return NoSession(parent);
  TS_RETURN_IF_ERROR(InsertSession(database_, child));
  TS_RETURN_IF_ERROR(
      SqliteStatement(database_,
                      "INSERT INTO entries SELECT ?, ordinal, role, name, text, tokens, token_count"
                      " FROM entries WHERE session_id = ?")
          .Bind(child.id)
          .Bind(parent)
          .Run());
  return transaction.Commit();
}

absl::Status SessionDirectory::Delete(const std::string& id) {
  const std::lock_guard lock(mutex_);
  TS_RETURN_IF_ERROR(
      SqliteStatement(database_, "DELETE FROM sessions WHERE id = ?").Bind(id).Run());
  return sqlite3_changes(database_) > 0 ? absl::OkStatus() : NoSession(id);
}

}  // namespace tailor
