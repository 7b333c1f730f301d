// Sessions over a real loopback connection: create, attach, fork, list, delete.
#include "services/gateway/chat_service.h"

#include <gmock/gmock.h>

#include <set>

#include "tests/services/gateway/chat_fixture.h"

namespace tailor {
namespace {

using grpc::StatusCode;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class ChatServiceTest : public ChatFixture {
 protected:
  v1::ListSessionsResponse List(int32_t page_size, const std::string& token,
                                grpc::Status* status = nullptr) {
    grpc::ClientContext context;
    v1::ListSessionsRequest request;
    request.set_page_size(page_size);
    request.set_page_token(token);
    v1::ListSessionsResponse response;
    const grpc::Status listed = stub_->ListSessions(&context, request, &response);
    if (status != nullptr) *status = listed;
    return response;
  }
};

TEST_F(ChatServiceTest, ASessionIsWhatItsRequestSaid) {
  v1::CreateSessionRequest request;
  request.set_title("a title");
  request.set_system("be brief");
  request.set_attention(v1::ATTENTION_MODE_FULL);
  v1::Session session;
  ASSERT_TRUE(Create("notes", &session, request).ok());
  EXPECT_EQ(session.id(), "notes");
  EXPECT_EQ(session.title(), "a title");
  EXPECT_EQ(session.attention(), v1::ATTENTION_MODE_FULL);
  EXPECT_EQ(session.messages(), 0);
  EXPECT_EQ(session.SerializeAsString(), Get("notes").session().SerializeAsString());
}

TEST_F(ChatServiceTest, IdsMadeByTheServerAreLongAndDiffer) {
  std::set<std::string> ids;
  for (int i = 0; i < 50; ++i) {
    v1::Session session;
    ASSERT_TRUE(Create("", &session).ok());
    EXPECT_EQ(session.id().size(), 32u);
    ids.insert(session.id());
  }
  EXPECT_THAT(ids, SizeIs(50));
}

TEST_F(ChatServiceTest, BadSessionsAreRefusedWithTheirLimits) {
  ASSERT_TRUE(Create("taken").ok());
  EXPECT_EQ(Create("taken").error_code(), StatusCode::ALREADY_EXISTS);
  for (const std::string& id : {std::string("a/b"), std::string("a b"), std::string(65, 'a')}) {
    const grpc::Status refused = Create(id);
    EXPECT_EQ(refused.error_code(), StatusCode::INVALID_ARGUMENT) << id;
    EXPECT_THAT(refused.error_message(), AllOf(HasSubstr("limit 64"), HasSubstr("A-Za-z0-9._-")));
  }
  v1::CreateSessionRequest request;
  request.set_title(std::string(257, 't'));
  EXPECT_THAT(Create("b", nullptr, request).error_message(),
              AllOf(HasSubstr("title has 257 bytes"), HasSubstr("limits 256 and 65536")));
  request.set_title("");
  request.set_attention(static_cast<v1::AttentionMode>(7));
  const grpc::Status refused = Create("b", nullptr, request);
  EXPECT_EQ(refused.error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(refused.error_message(), "attention is 7, limit 0..2");
}

TEST_F(ChatServiceTest, EveryCallOfAnUnknownSessionIsNotFound) {
  for (const grpc::Status& status :
       {GetStatus("gone"), Attach("gone", "a", {"x"}), Fork("gone", "child"), Delete("gone"),
        Chat("gone", "hi").status}) {
    EXPECT_EQ(status.error_code(), StatusCode::NOT_FOUND);
    EXPECT_EQ(status.error_message(), "there is no session gone");
  }
  EXPECT_EQ(GetStatus("child").error_code(), StatusCode::NOT_FOUND);
}

TEST_F(ChatServiceTest, ADocumentIsStoredAndCounted) {
  ASSERT_TRUE(Create("s").ok());
  v1::AttachDocumentResponse response;
  const grpc::Status attached = Attach("s", "a.txt", {"one \xc3", "\xa4 two"}, &response);
  ASSERT_TRUE(attached.ok()) << attached.error_message();
  EXPECT_EQ(response.bytes(), 10);
  // One id a byte but for no merge: "Document: a.txt", two newlines, the text, two newlines.
  EXPECT_EQ(response.tokens(), 15 + 2 + 10 + 2);
  EXPECT_THAT(response.session().documents(), ElementsAre("a.txt"));
  EXPECT_THAT(Transcript("s"), ElementsAre("DOCUMENT: one \xc3\xa4 two"));
}

TEST_F(ChatServiceTest, DocumentsThatLeaveNoRoomTogetherAreRefusedBeforeTheyBlockTheSession) {
  ASSERT_TRUE(Create("s").ok());
  ASSERT_TRUE(Attach("s", "a", {std::string(500, 'x')}).ok());
  const grpc::Status refused = Attach("s", "b", {std::string(500, 'y')});
  EXPECT_EQ(refused.error_code(), StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(refused.error_message(),
              AllOf(HasSubstr("document has 515 tokens"), HasSubstr("515 of documents not read"),
                    HasSubstr("the model reads 1000")));
  NextAnswer("ok");
  EXPECT_TRUE(Chat("s", "hi").status.ok()) << "the first document still leaves room";
  EXPECT_EQ(Attach("s", "b", {std::string(500, 'y')}).error_code(), StatusCode::RESOURCE_EXHAUSTED);
}

TEST_F(ChatServiceTest, ADocumentThatJustFitsStillLetsAMessageFollow) {
  ASSERT_TRUE(Create("s").ok());
  size_t fits = kContextTokens;
  while (fits > 0 && !Attach("s", "a", {std::string(fits, 'x')}).ok()) --fits;
  ASSERT_GT(fits, 900u);
  NextAnswer("ok");
  const ChatResult result = Chat("s", "hi");
  EXPECT_TRUE(result.status.ok()) << result.status.error_message();
}

TEST_F(ChatServiceTest, AForkHasTheParentsPastAndAFutureOfItsOwn) {
  ASSERT_TRUE(Create("a").ok());
  NextAnswer("one");
  ASSERT_TRUE(Chat("a", "first").status.ok());
  v1::Session child;
  ASSERT_TRUE(Fork("a", "b", &child).ok());
  EXPECT_EQ(child.parent_id(), "a");
  EXPECT_EQ(child.messages(), 3);
  EXPECT_THAT(decoder_.forks(), ElementsAre("a>b"));
  NextAnswer("two");
  ASSERT_TRUE(Chat("b", "second").status.ok());
  EXPECT_EQ(Get("a").messages_size(), 3);
  EXPECT_EQ(Get("b").messages_size(), 5);
  const auto requests = decoder_.requests();
  const auto& parent = requests[0].history();
  EXPECT_TRUE(std::equal(parent.begin(), parent.end(), requests[1].history().begin()));
  EXPECT_EQ(requests[1].sequence().name(), "b");
}

TEST_F(ChatServiceTest, AForkWithoutKvIsAForkAllTheSame) {
  ASSERT_TRUE(Create("a").ok());
  decoder_.SetControlStatus({StatusCode::NOT_FOUND, "no KV"});
  EXPECT_TRUE(Fork("a", "b").ok());
  decoder_.Stop();
  EXPECT_TRUE(Fork("a", "c").ok());
  EXPECT_TRUE(GetStatus("c").ok());
}

TEST_F(ChatServiceTest, AForkToATakenNameChangesNothing) {
  ASSERT_TRUE(Create("a").ok());
  ASSERT_TRUE(Create("b").ok());
  EXPECT_EQ(Fork("a", "b").error_code(), StatusCode::ALREADY_EXISTS);
  EXPECT_EQ(Fork("a", "a").error_code(), StatusCode::ALREADY_EXISTS);
  EXPECT_EQ(Get("b").session().parent_id(), "");
  EXPECT_THAT(decoder_.forks(), IsEmpty()) << "the worker forked over another sequence";
}

TEST_F(ChatServiceTest, WhileTheWorkerForksNeitherSessionCanBeTouched) {
  resume_timeout_ms_ = 0;  // a turn that wrongly begins finds no worker, and shall not wait
  Restart();
  ASSERT_TRUE(Create("a").ok());
  std::vector<grpc::Status> meanwhile;
  decoder_.SetOnFork([&] {
    meanwhile = {Chat("a", "hi").status, Chat("b", "hi").status, Delete("a"), Delete("b"),
                 Fork("b", "c"),         Attach("b", "x", {"x"})};
  });
  ASSERT_TRUE(Fork("a", "b").ok());
  ASSERT_THAT(meanwhile, SizeIs(6));
  for (const grpc::Status& status : meanwhile) {
    EXPECT_EQ(status.error_code(), StatusCode::FAILED_PRECONDITION) << status.error_message();
  }
}

TEST_F(ChatServiceTest, ADeletedSessionIsGoneHereAndInTheWorker) {
  resume_timeout_ms_ = 0;  // as above
  Restart();
  ASSERT_TRUE(Create("a").ok());
  ASSERT_TRUE(Create("b").ok());
  std::vector<grpc::Status> meanwhile;
  decoder_.SetOnRemove([&] { meanwhile = {Chat("a", "hi").status, Fork("b", "a")}; });
  ASSERT_TRUE(Delete("a").ok());
  EXPECT_EQ(GetStatus("a").error_code(), StatusCode::NOT_FOUND);
  EXPECT_THAT(decoder_.removed(), ElementsAre("a"));
  // A new session of that name must not lose its KV to the old one's removal.
  for (const grpc::Status& status : meanwhile) {
    EXPECT_EQ(status.error_code(), StatusCode::FAILED_PRECONDITION) << status.error_message();
  }
  decoder_.SetOnRemove(nullptr);
  decoder_.SetControlStatus({StatusCode::UNAVAILABLE, "loading"});
  EXPECT_TRUE(Delete("b").ok()) << "the transcript goes, whatever the worker says";
}

TEST_F(ChatServiceTest, EverySessionIsOnExactlyOnePage) {
  for (int i = 0; i < 7; ++i) ASSERT_TRUE(Create("s" + std::to_string(i)).ok());
  std::multiset<std::string> listed;
  std::string token;
  int pages = 0;
  do {
    const v1::ListSessionsResponse page = List(3, token);
    for (const v1::Session& session : page.sessions()) listed.insert(session.id());
    token = page.next_page_token();
    ++pages;
    ASSERT_TRUE(Attach("s" + std::to_string(pages), "d", {"x"}).ok());  // used meanwhile
  } while (!token.empty());
  EXPECT_EQ(pages, 3);
  EXPECT_THAT(listed, ElementsAre("s0", "s1", "s2", "s3", "s4", "s5", "s6"));
  EXPECT_EQ(List(7, "").next_page_token(), "") << "the page is full, and there is no more";
}

TEST_F(ChatServiceTest, AnInventedPageTokenIsRefused) {
  for (const char* token : {"3", "x.y", "-", ".a", "99999999999999999999.a"}) {
    grpc::Status status;
    List(1, token, &status);
    EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT) << token;
  }
}

TEST_F(ChatServiceTest, HealthAndReflectionAnswer) {
  // An empty HealthCheckRequest; the answer's field 1 is SERVING = 1, then NOT_SERVING = 2.
  EXPECT_EQ(RawCall("/grpc.health.v1.Health/Check", ""), "\x08\x01");
  server_->SetHealthy(false);
  EXPECT_EQ(RawCall("/grpc.health.v1.Health/Check", ""), "\x08\x02");
  // list_services is field 7, a string.
  EXPECT_THAT(RawCall("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
                      std::string("\x3a\x00", 2)),
              HasSubstr("tailor.v1.ChatService"));
}

}  // namespace
}  // namespace tailor
