// Kernels by their names.
#pragma once
#include <map>
#include <string>
#include <tuple>
#include <utility>

using Kernel = void (*)(void **arguments);

void add_kernel(const char *name, Kernel kernel);

// Takes a kernel's arguments from where a launch has them, each by the type of its parameter.
template <auto kernel> struct Arguments;
template <class... A, void (*kernel)(A...)> struct Arguments<kernel> {
  template <size_t... I> static void call(void **arguments, std::index_sequence<I...>) {
    kernel(*(std::remove_const_t<A> *)arguments[I]...);
  }
  static void run(void **arguments) { call(arguments, std::index_sequence_for<A...>()); }
};

#define ADD_KERNEL(NAME) add_kernel(#NAME, Arguments<&NAME>::run);
