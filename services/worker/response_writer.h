// The engine's answers as messages.
#pragma once

#include "services/worker/event_queue.h"
#include "services/worker/worker_state.h"
#include "tailor/v1/decoder.pb.h"
#include "worker/engine.h"

namespace tailor {

void WriteEvent(const ProgressEvent& event, v1::GenerateEvent* out);
void WriteEvent(const TokensEvent& event, v1::GenerateEvent* out);
void WriteEvent(const TurnResult& result, v1::GenerateEvent* out);
void WriteModelInfo(const ModelInfo& info, v1::ModelInfo* out);
void WriteProgress(const WorkerProgress& progress, v1::GetModelInfoResponse* out);
void WriteStats(const EngineStats& stats, v1::GetWorkerStatsResponse* out);

}  // namespace tailor
