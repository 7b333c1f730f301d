// A session database in a folder of its own, and sessions and entries to fill it with.
#pragma once

#include <gtest/gtest.h>
#include <sqlite3.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "services/gateway/session_directory.h"

namespace tailor {

class SessionDirectoryFixture : public ::testing::Test {
 protected:
  SessionDirectoryFixture() {
    std::string pattern = ::testing::TempDir() + "sessions_XXXXXX";
    dir_ = mkdtemp(pattern.data());
    path_ = dir_ / "sessions.db";
  }
  ~SessionDirectoryFixture() override { std::filesystem::remove_all(dir_); }

  std::unique_ptr<SessionDirectory> Open(Durability durability = Durability::kProcess) {
    auto opened = SessionDirectory::Open(path_, durability);
    EXPECT_TRUE(opened.ok()) << opened.status();
    return opened.ok() ? *std::move(opened) : nullptr;
  }
  absl::Status OpenStatus() { return SessionDirectory::Open(path_, Durability::kProcess).status(); }

  // Runs SQL on the closed file and returns the first value.
  std::string Sql(const std::string& sql) {
    sqlite3* database = nullptr;
    EXPECT_EQ(sqlite3_open(path_.c_str(), &database), SQLITE_OK);
    std::string first;
    const auto keep = [](void* out, int, char** values, char**) {
      auto* text = static_cast<std::string*>(out);
      if (text->empty() && values[0] != nullptr) *text = values[0];
      return 0;
    };
    char* error = nullptr;
    EXPECT_EQ(sqlite3_exec(database, sql.c_str(), keep, &first, &error), SQLITE_OK) << error;
    sqlite3_close(database);
    return first;
  }

  std::filesystem::path dir_, path_;
};

inline SessionRecord Session(const std::string& id) {
  SessionRecord session;
  session.id = id;
  session.title = "title of " + id;
  session.system = "be brief";
  session.attention = SessionAttention::kFull;
  return session;
}

inline SessionEntry Entry(EntryRole role, const std::string& text, std::vector<TokenId> tokens) {
  SessionEntry entry;
  entry.role = role;
  entry.name = role == EntryRole::kDocument ? "doc " + text : "";
  entry.text = text;
  entry.token_count = static_cast<int64_t>(tokens.size()) + 7;
  entry.tokens = std::move(tokens);
  return entry;
}

inline void ExpectSame(const SessionEntry& got, const SessionEntry& want) {
  EXPECT_EQ(got.role, want.role);
  EXPECT_EQ(got.name, want.name);
  EXPECT_EQ(got.text, want.text);
  EXPECT_EQ(got.tokens, want.tokens);
  EXPECT_EQ(got.token_count, want.token_count);
}

inline std::vector<std::string> Ids(const absl::StatusOr<std::vector<SessionRecord>>& sessions) {
  std::vector<std::string> ids;
  EXPECT_TRUE(sessions.ok()) << sessions.status();
  if (sessions.ok()) {
    for (const SessionRecord& session : *sessions) ids.push_back(session.id);
  }
  return ids;
}

}  // namespace tailor
