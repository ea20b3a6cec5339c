// Adafactor: gradients divided by a second moment that is known by its rows and columns. As torch.optim.Adafactor; with
// like_transformers as transformers.Adafactor.
//
// The second moment of matrices is a product of two vectors, which the engine advances before anything else
// (engine/factors.cpp). The rule sees the inverse roots of its elements in the place of the third state, that of
// vectors.
struct Adafactor : Elementwise {
    static constexpr const char* kName = "adafactor";
    static constexpr const char* kHypers[] = {"lr",
                                              "beta2_decay",
                                              "eps.0",
                                              "eps.1",
                                              "d",
                                              "weight_decay",
                                              "relative_step",
                                              "scale_parameter",
                                              "like_transformers"};
    enum { kLr, kDecay, kEps1, kEps2, kClip, kWeightDecay, kRelative, kScaled, kLikeTransformers };
    static constexpr State kStates[] = {{"row_var", kExact}, {"col_var", kExact}, {"variance", kExact}};
    static constexpr bool kNorms = true;
    static constexpr unsigned kNormStates = 4;
    static constexpr FactorStates kFactors{0, 1, 2};

    enum : unsigned { kMatrices = kFactored };
    static constexpr unsigned kVariants = 2;
    static constexpr unsigned states(unsigned) { return 4u; }

    static double epsilon(float) { return 0x1p-23; }
    static double epsilon(double) { return 0x1p-52; }

    // NaN stands for None.
    template <class T>
    static double eps1(const double* h) {
        return h[kEps1] == h[kEps1] ? h[kEps1] : epsilon(T{});
    }
    template <class T>
    static FactorWeights factors(const double* h, std::uint64_t step) {
        const double take = det_pow(static_cast<double>(step), h[kDecay]);
        const double least = eps1<T>(h), smallest = static_cast<double>(smallest_normal(T{}));
        return {1.0 - take, take, h[kLikeTransformers] != 0.0 ? least : 0.0, least > smallest ? least : smallest,
                1.0,        0.0};
    }

    template <class T>
    struct Constants {
        T shrink, lr, keep, take, inside, least, most;
    };
    template <class T>
    static Constants<T> derive(const double* h, std::uint64_t step, double*) {
        const FactorWeights w = factors<T>(h, step);
        const double smallest = static_cast<double>(smallest_normal(T{}));
        const double square = h[kLikeTransformers] != 0.0 ? 0.0 : w.least * w.least;
        const double least = square > smallest ? square : smallest;
        return {T(1.0), T(h[kLr]), T(w.keep), T(w.take), T(w.inside), T(least), T(1.0 / std::sqrt(least))};
    }

    // Advances the second moment, which is done for matrices; returns the step before it is clipped. NaN stays NaN.
    template <class T, unsigned V>
    static T moved(const Constants<T>& c, T g, T& v) {
        if constexpr (V & kMatrices) return g * (v > c.most ? c.most : v);
        v = c.keep * v + c.take * (g * g + c.inside);
        return g / root(larger(v, c.least));
    }

    // First pass: the step before it is clipped, and the parameter.
    template <class T, unsigned V>
    static void direction(const Constants<T>& c, T p, T g, T, T, T v, T& a, T& b) {
        a = moved<T, V>(c, g, v);
        b = p;
    }
    template <class T>
    static void trust(Constants<T>& c, const double* h, std::uint64_t step, double count, double first, double second) {
        const double square = count != 0.0 ? first / count : 0.0, size = count != 0.0 ? std::sqrt(second / count) : 0.0;
        const double slow = 1.0 / std::sqrt(static_cast<double>(step));
        double rate = h[kRelative] != 0.0 && slow < h[kLr] ? slow : h[kLr];
        if (h[kScaled] != 0.0) rate *= size > h[kEps2] || size != size ? size : h[kEps2];
        c.shrink = T(1.0 - (h[kLikeTransformers] != 0.0 ? rate : h[kLr]) * h[kWeightDecay]);
        const double excess = std::sqrt(square) / h[kClip];
        c.lr = T(rate / (excess > 1.0 || excess != excess ? excess : 1.0));
    }

    // Second pass.
    template <class T, unsigned V>
    static void update(const Constants<T>& c, T& p, T g, T&, T&, T& v) {
        p = p * c.shrink - c.lr * moved<T, V>(c, g, v);
    }
};
