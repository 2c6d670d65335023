// A source of kernels becomes a unit: `KERNELS(a, b, …)` behind its text makes its entries known by name.
#pragma once
#include "device.cuh"

#include <type_traits>
#include <utility>
#include <vector>

namespace emulation {
struct Entry {
    const char* name;
    void (*call)(void**);
    unsigned arguments;
};
std::vector<Entry>& entries();

template <class... A, size_t... I> void call_with(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_reference_t<A>*>(arguments[I])...);
}
template <auto KERNEL> struct Call;
template <class... A, void (*KERNEL)(A...)> struct Call<KERNEL> {
    static void call(void** arguments) { call_with<A...>(KERNEL, arguments, std::index_sequence_for<A...>()); }
    static constexpr unsigned count = sizeof...(A);
};
} // namespace emulation

#define KERNEL_ENTRY(name) {#name, emulation::Call<name>::call, emulation::Call<name>::count},
