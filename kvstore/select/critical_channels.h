// The channels of one KV head that decide its scores. ALGORITHM §3.3.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tailor {

// q_mean[c] = mean over the group's query heads of q[g * head_dim + c].  q: [group * head_dim]
void GroupMean(std::span<const float> q, std::vector<float>* q_mean);

// magnitude[c] = sum over the group's query heads of |q[g * head_dim + c]|
void GroupMagnitude(std::span<const float> q, std::vector<float>* magnitude);

// The `count` channels of largest |q[c]| * kmax[c], ascending; ties to the lower channel, NaN last.
// q: a group's mean or magnitude.
void CriticalChannels(std::span<const float> q, std::span<const float> kmax, int32_t count,
                      std::vector<int32_t>* channels);

}  // namespace tailor
