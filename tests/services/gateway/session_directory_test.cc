#include "services/gateway/session_directory.h"

#include <gmock/gmock.h>
#include <fstream>

#include "tests/services/gateway/session_directory_fixture.h"

namespace tailor {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

using SessionDirectoryTest = SessionDirectoryFixture;

SessionCursor After(const SessionRecord& session) { return {session.created_unix_ms, session.id}; }

TEST_F(SessionDirectoryTest, WhatWasAppendedIsThereAfterARestart) {
  const SessionEntry question =
      Entry(EntryRole::kUser, std::string("nul \0 in it", 11), {1, -2, 3});
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

}  // namespace
}  // namespace tailor
