// How long a network takes, and whether threads disturb each other in it.
#pragma once
#include "hosting/exported_network.h"

// Of a call, after two that do not count.
double median_milliseconds(pocketnet::hosting::ExportedNetwork& network, const at::Tensor& input, int repeat);

// Whether `callers` threads on the one network get, ten times each, what one thread got.
bool callers_agree(pocketnet::hosting::ExportedNetwork& network, const at::Tensor& input, const at::Tensor& expected,
                   int callers);
