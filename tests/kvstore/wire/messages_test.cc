#include "kvstore/wire/messages.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

namespace tailor::wire {
namespace {

TEST(RingGeometry, WhatWeMakeIsSoundAndItsPartsDoNotOverlap) {
  for (const uint32_t query_floats : {1u, 576u, 32768u, 65535u}) {
    for (const uint64_t payload_bytes : {uint64_t{1}, uint64_t{4096}, uint64_t{1} << 32}) {
      const RingGeometry g = MakeRingGeometry(query_floats, payload_bytes);
      EXPECT_TRUE(IsSound(g));
      EXPECT_GE(g.payload_bytes, payload_bytes);
      EXPECT_GE(g.queries_offset, g.requests_offset + g.request_slots * sizeof(SelectRequest));
      EXPECT_GE(g.responses_offset,
                g.queries_offset + uint64_t{4} * g.request_slots * query_floats);
      EXPECT_GE(g.payloads_offset, g.responses_offset + g.response_slots * sizeof(ResponseSlot));
      EXPECT_EQ(g.ring_bytes, g.payloads_offset + g.response_slots * g.payload_bytes);
    }
  }
}

TEST(RingGeometry, OneThatPassesItsMemoryIsUnsound) {
  const RingGeometry good = MakeRingGeometry(576, 4096);
  RingGeometry g = good;
  g.ring_bytes -= 1;
  EXPECT_FALSE(IsSound(g));
  g = good;
  g.request_slots = 3;
  EXPECT_FALSE(IsSound(g)) << "not a power of two";
  g = good;
  g.payload_bytes = ~uint64_t{0} / 2;  // times response_slots overflows
  EXPECT_FALSE(IsSound(g));
  g = good;
  g.requests_offset = 64;  // inside the header
  EXPECT_FALSE(IsSound(g));
  g = good;
  g.query_floats = 0xffffffff;
  EXPECT_FALSE(IsSound(g));
}

// Whatever the bytes are: a geometry that passes keeps every slot inside the ring.
TEST(RingGeometry, NoRandomGeometryThatIsSoundReachesOutside) {
  std::mt19937_64 random(20240607);
  for (int round = 0; round < 200'000; ++round) {
    RingGeometry g = MakeRingGeometry(576, 4096);
    auto* words = reinterpret_cast<uint32_t*>(&g);
    for (int changes = 0; changes < 2; ++changes) {
      words[random() % 16] = random() % 2 != 0 ? random() : 1u << (random() % 32);
    }
    if (!IsSound(g)) continue;
    const auto end = [](uint64_t offset, uint64_t count, uint64_t bytes) {
      return static_cast<unsigned __int128>(count) * bytes + offset;
    };
    ASSERT_LE(end(g.requests_offset, g.request_slots, sizeof(SelectRequest)), g.ring_bytes);
    ASSERT_LE(end(g.queries_offset, g.request_slots, uint64_t{4} * g.query_floats), g.ring_bytes);
    ASSERT_LE(end(g.responses_offset, g.response_slots, sizeof(ResponseSlot)), g.ring_bytes);
    ASSERT_LE(end(g.payloads_offset, g.response_slots, g.payload_bytes), g.ring_bytes);
  }
}

TEST(Checks, EveryFlippedBitOfADescriptorIsFound) {
  SelectRequest request{};
  request.version = kVersion;
  request.ticket = 41;
  request.deadline_ns = 123456789;
  request.check = RequestCheck(request);
  for (size_t bit = 0; bit < 8 * sizeof(request); ++bit) {
    SelectRequest flipped = request;
    reinterpret_cast<uint8_t*>(&flipped)[bit / 8] ^= 1u << (bit % 8);
    EXPECT_NE(flipped.check, RequestCheck(flipped)) << "bit " << bit;
  }
}

}  // namespace
}  // namespace tailor::wire
