// What tests see of fake_cublaslt.so beside cuBLASLt's own calls: it counts them and fails on
// demand. Found by name in the library that the backend opened.
#pragma once

extern "C" {

// How often `call`, such as "cublasLtMatmul", was made since the last reset.
int FakeCublasLtCalls(const char* call);
// From the `from`-th call since the reset on (the first is 0), `call` returns `status` and does
// nothing.
void FakeCublasLtFail(const char* call, int from, int status);
void FakeCublasLtReset();

}  // extern "C"
