// Runs the kernels: fibers, meetings, copies.
#include "unit.hpp"

#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <ucontext.h>
#include <vector>

namespace emulation {
thread_local Place place;
thread_local u8* launched_shared;

namespace {
constexpr size_t STACK_BYTES = 64 << 10, OFFER_BYTES = 64;
enum State { READY, AT_BLOCK, AT_WARP, ENDED };

struct Copy { void* to; const void* from; };

struct Fiber {
    ucontext_t context;
    jmp_buf at;
    bool started = false;
    State state = READY;
    unsigned meetings = 0;
    std::vector<std::vector<Copy>> groups;
    std::vector<Copy> open;
    // Two, so that a lane may offer again before the others have read.
    alignas(16) u8 offers[2][OFFER_BYTES];
};

struct Block {
    std::vector<Fiber> fibers;
    // As they come: filling those of 1,024 threads takes longer than most kernels.
    std::unique_ptr<u8[]> stacks;
    void (*call)(void**) = nullptr;
    void** arguments = nullptr;
    unsigned running = 0;
    jmp_buf scheduler;
};
thread_local Block* block;

[[noreturn]] void stop(const char* what) {
    std::fprintf(stderr, "emulation: %s (block %u, thread %u)\n", what, place.block.x, place.thread.x);
    std::abort();
}

__attribute__((noinline)) void pause(State state) {
    Fiber& fiber = block->fibers[block->running];
    fiber.state = state;
    if (_setjmp(fiber.at) == 0) {
        _longjmp(block->scheduler, 1);
    }
}

void body() {
    block->call(block->arguments);
    Fiber& fiber = block->fibers[block->running];
    fiber.state = ENDED;
    _longjmp(block->scheduler, 1);
}

__attribute__((noinline)) void resume(unsigned index) {
    Fiber& fiber = block->fibers[index];
    block->running = index;
    place.thread = {index, 0, 0};
    if (_setjmp(block->scheduler) != 0) {
        return;
    }
    if (fiber.started) {
        _longjmp(fiber.at, 1);
    }
    fiber.started = true;
    getcontext(&fiber.context);
    fiber.context.uc_stack = {block->stacks.get() + index * STACK_BYTES, 0, STACK_BYTES};
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, body, 0);
    setcontext(&fiber.context);
}

// Runs a block from meeting to meeting until all its threads have ended. False from `step`: nobody could go on.
void run_block() {
    unsigned count = static_cast<unsigned>(block->fibers.size());
    for (unsigned ended = 0; ended < count;) {
        bool moved = false;
        for (unsigned warp = 0; warp < count; warp += WARP) {
            unsigned end = warp + WARP < count ? warp + WARP : count;
            for (;;) {
                for (unsigned i = warp; i < end; i++) {
                    if (block->fibers[i].state == READY) {
                        resume(i);
                        moved = true;
                    }
                }
                unsigned waiting = 0, gone = 0;
                for (unsigned i = warp; i < end; i++) {
                    waiting += block->fibers[i].state == AT_WARP;
                    gone += block->fibers[i].state == ENDED;
                }
                // Lanes that have ended are not waited for; those at another barrier are a fault.
                if (waiting == 0 || waiting + gone < end - warp) {
                    if (waiting > 0) {
                        stop("lanes of a warp meet at different places");
                    }
                    break;
                }
                for (unsigned i = warp; i < end; i++) {
                    if (block->fibers[i].state == AT_WARP) {
                        block->fibers[i].state = READY;
                    }
                }
            }
        }
        ended = 0;
        unsigned at_block = 0;
        for (Fiber& fiber : block->fibers) {
            ended += fiber.state == ENDED;
            at_block += fiber.state == AT_BLOCK;
        }
        if (at_block > 0 && at_block + ended == count) {
            for (Fiber& fiber : block->fibers) {
                if (fiber.state == AT_BLOCK) {
                    fiber.state = READY;
                }
            }
        } else if (!moved && ended < count) {
            stop("no thread can go on");
        }
    }
}
} // namespace

void meet_block() { pause(AT_BLOCK); }
void meet_warp() {
    pause(AT_WARP);
    block->fibers[block->running].meetings++;
}
void* offer() {
    Fiber& fiber = block->fibers[block->running];
    return fiber.offers[fiber.meetings % 2];
}
const void* offered(int lane) {
    unsigned index = block->running / WARP * WARP + static_cast<unsigned>(lane);
    // This lane has counted the meeting; what was offered for it lies in the place of the count before.
    return block->fibers[index].offers[(block->fibers[block->running].meetings - 1) % 2];
}
void copy_begin(void* to, const void* from) {
    if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) % 16 != 0) {
        stop("a copy of 16 bytes is not aligned");
    }
    block->fibers[block->running].open.push_back({to, from});
}
void copies_commit() {
    Fiber& fiber = block->fibers[block->running];
    fiber.groups.push_back(std::move(fiber.open));
    fiber.open.clear();
}
void copies_wait(int pending) {
    auto& groups = block->fibers[block->running].groups;
    while (groups.size() > static_cast<size_t>(pending)) {
        for (const Copy& copy : groups.front()) {
            std::memcpy(copy.to, copy.from, 16);
        }
        groups.erase(groups.begin());
    }
}

std::vector<Entry>& entries() {
    static std::vector<Entry> all;
    return all;
}
} // namespace emulation

// 0 when it ran, 1 when there is no such kernel, 2 when it takes another number of arguments.
extern "C" int emulate(const char* name, const unsigned* grid, unsigned threads, size_t shared_bytes, void** arguments, unsigned count) {
    using namespace emulation;
    for (const Entry& entry : entries()) {
        if (std::strcmp(entry.name, name) != 0) {
            continue;
        }
        if (entry.arguments != count) {
            return 2;
        }
        Block own;
        block = &own;
        own.stacks.reset(new u8[threads * STACK_BYTES]);
        own.call = entry.call;
        own.arguments = arguments;
        std::vector<u8> shared(shared_bytes + 16);
        launched_shared = shared.data() + (16 - reinterpret_cast<uintptr_t>(shared.data()) % 16) % 16;
        for (unsigned z = 0; z < grid[2]; z++) {
            for (unsigned y = 0; y < grid[1]; y++) {
                for (unsigned x = 0; x < grid[0]; x++) {
                    std::memset(launched_shared, 0xcb, shared_bytes);
                    own.fibers.clear();
                    own.fibers.resize(threads);
                    place = {{0, 0, 0}, {x, y, z}, {threads, 1, 1}, {grid[0], grid[1], grid[2]}};
                    run_block();
                }
            }
        }
        return 0;
    }
    return 1;
}
