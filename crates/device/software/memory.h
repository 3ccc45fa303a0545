// The device's memory.
#pragma once
#include <cstddef>

// Null where nothing is asked for, or there is no more.
void *take_memory(size_t bytes);
bool give_back_memory(void *at);
// Ends the process where not all of these bytes are allocated together.
void check_memory(const void *at, size_t bytes, const char *what);
