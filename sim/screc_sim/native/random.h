// Seeded random choices.
#pragma once

#include <cstdint>
#include <random>

class Random {
public:
    explicit Random(uint64_t seed) : engine_(seed) {}
    bool chance(double probability) {
        return probability > 0 && static_cast<double>(engine_() >> 11) * 0x1p-53 < probability;
    }
    uint64_t between(uint64_t low, uint64_t high) {
        return low == high ? low : low + engine_() % (high - low + 1);
    }

private:
    std::mt19937_64 engine_;
};
