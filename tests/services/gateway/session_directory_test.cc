#include "services/gateway/session_directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <functional>
#include <map>
#include <random>

namespace tailor {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class SessionDirectoryTest : public ::testing::Test {
 protected:
  SessionDirectoryTest() {
    std::string pattern = ::testing::TempDir() + "sessions_XXXXXX";
    dir_ = mkdtemp(pattern.data());
    path_ = dir_ / "sessions.db";
  }
  ~SessionDirectoryTest() override { std::filesystem::remove_all(dir_); }

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

SessionRecord Session(const std::string& id) {
  SessionRecord session;
  session.id = id;
  session.title = "title of " + id;
  session.system = "be brief";
  session.attention = SessionAttention::kFull;
  return session;
}

SessionEntry Entry(EntryRole role, const std::string& text, std::vector<TokenId> tokens) {
  SessionEntry entry;
  entry.role = role;
  entry.name = role == EntryRole::kDocument ? "doc " + text : "";
  entry.text = text;
  entry.token_count = static_cast<int64_t>(tokens.size()) + 7;
  entry.tokens = std::move(tokens);
  return entry;
}

void ExpectSame(const SessionEntry& got, const SessionEntry& want) {
  EXPECT_EQ(got.role, want.role);
  EXPECT_EQ(got.name, want.name);
  EXPECT_EQ(got.text, want.text);
  EXPECT_EQ(got.tokens, want.tokens);
  EXPECT_EQ(got.token_count, want.token_count);
}

std::vector<std::string> Ids(const absl::StatusOr<std::vector<SessionRecord>>& sessions) {
  std::vector<std::string> ids;
  EXPECT_TRUE(sessions.ok()) << sessions.status();
  if (sessions.ok()) {
    for (const SessionRecord& session : *sessions) ids.push_back(session.id);
  }
  return ids;
}

SessionCursor After(const SessionRecord& session) { return {session.created_unix_ms, session.id}; }

TEST_F(SessionDirectoryTest, WhatWasAppendedIsThereAfterARestart) {
  const SessionEntry question = Entry(EntryRole::kUser, std::string("nul \0 in it", 11), {1, -2, 3});
  const SessionEntry document = Entry(EntryRole::kDocument, "a \xc3\xa4", {});
  {
    const auto directory = Open();
    ASSERT_TRUE(directory->Create(Session("s")).ok());
    ASSERT_TRUE(directory->Append("s", {document, question}).ok());
  }
  const auto directory = Open();
  const auto session = directory->Get("s");
  ASSERT_TRUE(session.ok()) << session.status();
  EXPECT_EQ(session->title, "title of s");
  EXPECT_EQ(session->system, "be brief");
  EXPECT_EQ(session->attention, SessionAttention::kFull);
  EXPECT_EQ(session->tokens, 3);
  EXPECT_EQ(session->entries, 2);
  EXPECT_THAT(session->documents, ElementsAre(document.name));
  EXPECT_GE(session->updated_unix_ms, session->created_unix_ms);
  const auto entries = directory->Entries("s");
  ASSERT_TRUE(entries.ok());
  ASSERT_EQ(entries->size(), 2u);
  ExpectSame((*entries)[0], document);
  ExpectSame((*entries)[1], question);
}

TEST_F(SessionDirectoryTest, UnreadTokensAreThoseOfDocumentsSinceTheLastMessage) {
  const auto directory = Open();
  const auto document = [](int64_t tokens) {
    SessionEntry entry = Entry(EntryRole::kDocument, "d", {});
    entry.token_count = tokens;
    return entry;
  };
  ASSERT_TRUE(directory->Create(Session("s")).ok());
  EXPECT_EQ(directory->Get("s")->unread_tokens, 0);
  ASSERT_TRUE(directory->Append("s", {document(1), document(10)}).ok());
  EXPECT_EQ(directory->Get("s")->unread_tokens, 11);
  ASSERT_TRUE(directory->Append("s", {Entry(EntryRole::kUser, "x", {1})}).ok());
  EXPECT_EQ(directory->Get("s")->unread_tokens, 0);
  ASSERT_TRUE(directory->Append("s", {document(100)}).ok());
  EXPECT_EQ(directory->Get("s")->unread_tokens, 100);
}

TEST_F(SessionDirectoryTest, EveryCallOfAnUnknownSessionIsNotFoundAndNamesIt) {
  const auto directory = Open();
  const std::vector<absl::Status> statuses = {
      directory->Get("gone").status(), directory->Entries("gone").status(),
      directory->Append("gone", {Entry(EntryRole::kUser, "x", {1})}), directory->Delete("gone"),
      directory->Fork("gone", Session("child"))};
  for (const absl::Status& status : statuses) {
    EXPECT_TRUE(absl::IsNotFound(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("no session gone"));
  }
  EXPECT_THAT(Ids(directory->List(10, std::nullopt)), IsEmpty()) << "a failed fork left its child";
}

TEST_F(SessionDirectoryTest, AnIdIsTakenOnce) {
  const auto directory = Open();
  ASSERT_TRUE(directory->Create(Session("s")).ok());
  ASSERT_TRUE(directory->Append("s", {Entry(EntryRole::kUser, "x", {1})}).ok());
  for (const absl::Status& status :
       {directory->Create(Session("s")), directory->Fork("s", Session("s"))}) {
    EXPECT_TRUE(absl::IsAlreadyExists(status)) << status;
    EXPECT_EQ(status.message(), "session s exists");
  }
  EXPECT_EQ(directory->Get("s")->entries, 1);
}

TEST_F(SessionDirectoryTest, TheEntriesOfOneAppendComeTogetherOrNotAtAll) {
  {
    const auto directory = Open();
    ASSERT_TRUE(directory->Create(Session("s")).ok());
    ASSERT_TRUE(directory->Append("s", {Entry(EntryRole::kUser, "first", {1})}).ok());
  }
  Sql("CREATE TRIGGER no BEFORE INSERT ON entries WHEN NEW.text = 'bad'"
      " BEGIN SELECT RAISE(ABORT, 'refused by the test'); END");
  const auto directory = Open();
  const int64_t used_before = directory->Get("s")->updated_unix_ms;
  const absl::Status appended = directory->Append(
      "s", {Entry(EntryRole::kUser, "good", {2}), Entry(EntryRole::kAssistant, "bad", {3})});
  EXPECT_TRUE(absl::IsInternal(appended)) << "an aborted insert is no duplicate: " << appended;
  EXPECT_THAT(std::string(appended.message()), HasSubstr("refused by the test"));
  EXPECT_EQ(directory->Get("s")->entries, 1);
  EXPECT_EQ(directory->Get("s")->updated_unix_ms, used_before);
  EXPECT_TRUE(directory->Append("s", {Entry(EntryRole::kUser, "good", {2})}).ok())
      << "the failed transaction still runs";
}

TEST_F(SessionDirectoryTest, TheFileIsInWalMode) {
  Open();
  EXPECT_EQ(Sql("PRAGMA journal_mode"), "wal");
  Open(Durability::kPower);
  EXPECT_EQ(Sql("PRAGMA journal_mode"), "wal");
}

TEST_F(SessionDirectoryTest, ASecondProcessIsRefusedWhileOneHasTheFile) {
  const auto directory = Open();
  const absl::Status second = OpenStatus();
  EXPECT_TRUE(absl::IsUnavailable(second)) << second;
  EXPECT_THAT(std::string(second.message()),
              AllOf(HasSubstr(path_.string()), HasSubstr("another process has it open")));
  EXPECT_TRUE(directory->Create(Session("s")).ok()) << "the first is not disturbed";
}

TEST_F(SessionDirectoryTest, ADamagedFileIsDataLossThatNamesIt) {
  std::ofstream(path_) << std::string(8192, 'x');
  const absl::Status status = OpenStatus();
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr(path_.string()), HasSubstr("not a database")));
}

TEST_F(SessionDirectoryTest, ADirectoryThatCannotBeMadeIsUnavailable) {
  path_ = "/proc/no/such/sessions.db";
  EXPECT_TRUE(absl::IsUnavailable(OpenStatus())) << OpenStatus();
}

TEST_F(SessionDirectoryTest, AnotherProgramsDatabaseIsRefusedAndLeftAlone) {
  Sql("CREATE TABLE sessions (cookie TEXT); PRAGMA user_version = 1");
  const absl::Status status = OpenStatus();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("belongs to another program"));
  EXPECT_EQ(Sql("SELECT COUNT(*) FROM sqlite_master"), "1");
  EXPECT_EQ(Sql("PRAGMA journal_mode"), "delete");
}

TEST_F(SessionDirectoryTest, AnotherSchemaVersionIsRefusedByNumber) {
  Open();
  Sql("PRAGMA user_version = 2");
  const absl::Status status = OpenStatus();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("schema is 2, this gateway reads 1"));
}

TEST_F(SessionDirectoryTest, DamagedTokensAreDataLoss) {
  {
    const auto directory = Open();
    ASSERT_TRUE(directory->Create(Session("s")).ok());
    ASSERT_TRUE(directory->Append("s", {Entry(EntryRole::kUser, "x", {1})}).ok());
  }
  Sql("UPDATE entries SET tokens = x'0102030405'");
  EXPECT_TRUE(absl::IsDataLoss(Open()->Entries("s").status()));
}

TEST_F(SessionDirectoryTest, SessionsUsedBetweenTwoPagesAreListedOnceEach) {
  const auto directory = Open();
  for (const char* id : {"a", "b", "c", "d", "e"}) {
    ASSERT_TRUE(directory->Create(Session(id)).ok());
  }
  const std::vector<std::string> all = Ids(directory->List(10, std::nullopt));
  ASSERT_EQ(all.size(), 5u);
  std::vector<std::string> listed;
  std::optional<SessionCursor> after;
  while (true) {
    const auto page = directory->List(2, after);
    ASSERT_TRUE(page.ok());
    for (const std::string& id : Ids(page)) listed.push_back(id);
    if (page->size() < 2) break;
    after = After(page->back());
    // The last of the list becomes the last used; the first is used again.
    for (const std::string& id : {all.back(), all.front()}) {
      ASSERT_TRUE(directory->Append(id, {Entry(EntryRole::kUser, "x", {1})}).ok());
    }
  }
  EXPECT_EQ(listed, all);
}

TEST_F(SessionDirectoryTest, APageGoesOnBehindADeletedSession) {
  const auto directory = Open();
  for (const char* id : {"a", "b", "c"}) ASSERT_TRUE(directory->Create(Session(id)).ok());
  const auto first = directory->List(1, std::nullopt);
  const std::vector<std::string> rest = Ids(directory->List(10, After(first->at(0))));
  ASSERT_TRUE(directory->Delete(first->at(0).id).ok());
  EXPECT_EQ(Ids(directory->List(10, After(first->at(0)))), rest);
}

// A child appends numbered pairs and reports each number after Append returned; it is killed at a random
// number. Everything it reported must be there, in pairs.
TEST_F(SessionDirectoryTest, AKilledProcessLosesNothingThatWasAcknowledged) {
  const uint64_t seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  int32_t acknowledged = -1;
  for (int round = 0; round < 3; ++round) {
    int pipe_ends[2];
    ASSERT_EQ(pipe(pipe_ends), 0);
    const int32_t begin = acknowledged + 1;
    const pid_t child = fork();
    if (child == 0) {
      const auto directory = *SessionDirectory::Open(path_, Durability::kProcess);
      (void)directory->Create(Session("s"));
      for (int32_t i = begin;; ++i) {
        const std::vector<SessionEntry> pair = {
            Entry(EntryRole::kUser, std::string(3000, 'u'), {i, 0}),
            Entry(EntryRole::kAssistant, std::string(3000, 'a'), {i, 1})};
        if (!directory->Append("s", pair).ok()) _exit(1);
        if (write(pipe_ends[1], &i, sizeof i) != sizeof i) _exit(1);
      }
    }
    close(pipe_ends[1]);
    const int32_t last = begin + static_cast<int32_t>(20 + random() % 200);
    while (acknowledged < last && read(pipe_ends[0], &acknowledged, sizeof acknowledged) > 0) {
    }
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    for (int32_t i; read(pipe_ends[0], &i, sizeof i) == sizeof i;) acknowledged = i;
    close(pipe_ends[0]);
    ASSERT_GE(acknowledged, last) << "the child ended by itself";

    const auto directory = Open();
    const auto entries = directory->Entries("s");
    ASSERT_TRUE(entries.ok()) << entries.status();
    ASSERT_EQ(entries->size() % 2, 0u) << "half a turn";
    const auto pairs = static_cast<int32_t>(entries->size() / 2);
    ASSERT_GE(pairs, acknowledged + 1);
    ASSERT_LE(pairs, acknowledged + 2) << "at most one was written and not yet acknowledged";
    for (int32_t i = 0; i < pairs; ++i) {
      ASSERT_THAT((*entries)[2 * i].tokens, ElementsAre(i, 0));
      ASSERT_THAT((*entries)[2 * i + 1].tokens, ElementsAre(i, 1));
    }
    acknowledged = pairs - 1;
  }
}

// Against a std::map, with restarts.
class Model {
 public:
  Model(std::function<std::unique_ptr<SessionDirectory>()> open, uint64_t seed)
      : open_(std::move(open)), random_(seed), directory_(open_()) {}

  void Step() {
    const std::string id = RandomId();
    switch (random_() % 10) {
      case 0:
      case 1: Create(id); break;
      case 2: Fork(id, RandomId()); break;
      case 3: Delete(id); break;
      case 4:
        directory_.reset();
        directory_ = open_();
        break;
      default: Append(id); break;
    }
  }

  void ExpectSameAsModel() {
    const auto listed = Ids(directory_->List(1000, std::nullopt));
    ASSERT_EQ(listed.size(), model_.size());
    for (const auto& [id, entries] : model_) {
      const auto got = directory_->Entries(id);
      ASSERT_TRUE(got.ok()) << id << ": " << got.status();
      ASSERT_EQ(got->size(), entries.size()) << id;
      int64_t tokens = 0;
      for (size_t i = 0; i < entries.size(); ++i) {
        ExpectSame((*got)[i], entries[i]);
        tokens += static_cast<int64_t>(entries[i].tokens.size());
      }
      EXPECT_EQ(directory_->Get(id)->tokens, tokens) << id;
      EXPECT_EQ(directory_->Get(id)->entries, static_cast<int32_t>(entries.size())) << id;
    }
  }

 private:
  std::string RandomId() { return "s" + std::to_string(random_() % 6); }
  void Create(const std::string& id) {
    EXPECT_EQ(directory_->Create(Session(id)).ok(), !model_.contains(id));
    model_.try_emplace(id);
  }
  void Fork(const std::string& parent, const std::string& child) {
    const bool possible = model_.contains(parent) && !model_.contains(child);
    EXPECT_EQ(directory_->Fork(parent, Session(child)).ok(), possible) << parent << " " << child;
    if (possible) model_[child] = model_[parent];
  }
  void Delete(const std::string& id) {
    EXPECT_EQ(directory_->Delete(id).ok(), model_.erase(id) > 0);
  }
  void Append(const std::string& id) {
    std::vector<SessionEntry> entries;
    for (size_t i = random_() % 3; i > 0; --i) {
      std::vector<TokenId> tokens(random_() % 5);
      for (TokenId& token : tokens) token = static_cast<TokenId>(random_());
      const auto role = static_cast<EntryRole>(1 + random_() % 4);
      entries.push_back(Entry(role, std::to_string(random_()), tokens));
    }
    EXPECT_EQ(directory_->Append(id, entries).ok(), model_.contains(id)) << id;
    if (!model_.contains(id)) return;
    model_[id].insert(model_[id].end(), entries.begin(), entries.end());
  }

  const std::function<std::unique_ptr<SessionDirectory>()> open_;
  std::mt19937_64 random_;
  std::unique_ptr<SessionDirectory> directory_;
  std::map<std::string, std::vector<SessionEntry>> model_;
};

TEST_F(SessionDirectoryTest, RandomOperationsWithRestartsKeepToAMap) {
  const uint64_t seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  Model model([this] { return Open(); }, seed);
  for (int step = 0; step < 600; ++step) {
    model.Step();
    if (step % 20 == 19) model.ExpectSameAsModel();
    if (HasFailure()) FAIL() << "at step " << step;
  }
}

}  // namespace
}  // namespace tailor
